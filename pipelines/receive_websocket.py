"""Skeletons over a WebSocket, in both directions; needs `pip install websockets`.

Either this program listens, and the tracker connects (and reconnects):

    python pipelines/receive_websocket.py --listen 8765
    sharpose-rt --source webcam --publish ws://127.0.0.1:8765

Or the tracker serves, and this program connects:

    sharpose-rt --source webcam --serve 8080
    python pipelines/receive_websocket.py ws://127.0.0.1:8080/skeletons          (with a token: ...?token=SECRET)

Each message is one record of the skeleton stream: a header, then frames, then an end. A program slower than the frame
rate can request the newest frame by sending any message: `.../skeletons?ask=1`.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading

from websockets.exceptions import ConnectionClosedError, WebSocketException
from websockets.sync.client import ClientConnection, connect
from websockets.sync.server import ServerConnection, serve


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", nargs="?", help="a tracker that serves")
    parser.add_argument("--listen", type=int, metavar="PORT", help="wait for a tracker that publishes")
    args = parser.parse_args(argv)
    if (args.url is None) == (args.listen is None):
        parser.error("give a URL to connect to, or --listen PORT")
    if args.url:
        with connect(args.url, max_size=None) as connection:
            show(connection, asks="ask=1" in args.url)
        return

    def once(connection: ServerConnection) -> None:
        if show(connection):
            threading.Thread(target=server.shutdown).start()  # it waits for us

    with serve(once, "127.0.0.1", args.listen, max_size=None, max_queue=1) as server:  # what waits here is old
        server.serve_forever()


def show(connection: ClientConnection | ServerConnection, *, asks: bool = False) -> bool:
    """Prints a line for each frame; True when the stream came to its end."""
    try:
        for message in connection:
            record = json.loads(message)
            if record["type"] == "header":
                print(f"{record['source']}: {len(record['keypoints'])} keypoints, model {record['model']['name']}")
            elif record["type"] == "frame":
                missed = record.get("dropped_before", 0)
                ids = [person["track_id"] for person in record["people"]]
                print(f"frame {record['frame_id']}  ids {ids}" + (f"  ({missed} missed)" if missed else ""), flush=True)
                if asks:  # for one more, now that this one is done
                    connection.send("next")
            else:
                print(f"end: {record['status']}")
                return True
    except ConnectionClosedError as error:  # the tracker was killed, or its machine is gone
        print(f"lost: {error}", file=sys.stderr)
    return False


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
    except (ImportError, OSError, OverflowError, ValueError, WebSocketException) as error:
        # Nobody serves there, there is no such port, or the way leads by a SOCKS proxy, which needs a package.
        sys.exit(f"error: {error}")
