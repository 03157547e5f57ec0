"""Skeletons over ZeroMQ; needs `pip install pyzmq`.

This program binds, and the tracker connects, from this machine or another:

    python pipelines/receive_zmq.py 5556
    sharpose-rt --source webcam --publish zmq+tcp://127.0.0.1:5556

With `zmq+tcp://@127.0.0.1:5556` the tracker binds instead, for any number of subscribers on its machine; then add
`--connect` here. The header is repeated every second, so the order of starting does not matter.
"""

from __future__ import annotations

import argparse
import json
import sys

import zmq


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("port", type=int)
    parser.add_argument("--host", default="127.0.0.1", help="address to bind to (* for all) or to connect to")
    parser.add_argument("--connect", action="store_true", help="the tracker has bound its side")
    args = parser.parse_args(argv)
    if not 0 < args.port < 65536:  # ZeroMQ would use another one
        sys.exit(f"error: the port is {args.port}; 1 to 65535 is accepted")

    with zmq.Context() as context, context.socket(zmq.SUB) as consumer:
        consumer.rcvhwm = 2  # rather the newest than all
        consumer.subscribe(b"")
        address = f"tcp://{args.host}:{args.port}"
        if args.connect:
            consumer.connect(address)
        else:
            consumer.bind(address)
        record = {"type": ""}
        while record["type"] != "end":
            record = json.loads(consumer.recv())
            if record["type"] == "frame":
                boxes = {p["track_id"]: [round(v) for v in p["bbox_xyxy"]] for p in record["people"]}
                print(f"frame {record['frame_id']}  boxes {boxes}", flush=True)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
    except zmq.ZMQError as error:  # the port is taken, say
        sys.exit(f"error: {error}")
