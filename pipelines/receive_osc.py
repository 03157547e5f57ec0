"""Skeletons as Open Sound Control, for music and stage programs; needs `pip install python-osc`.

    python pipelines/receive_osc.py 9000
    sharpose-rt --source webcam --publish osc://127.0.0.1:9000

Messages, which Max, TouchDesigner, Pure Data and SuperCollider can also read:

    /sharpose/keypoints  names...                       once a second, like /sharpose/size  width height
    /sharpose/frame      frame_id pts_s people
    /sharpose/person     frame_id track_id stage quality  x1 y1 x2 y2  then x y score for each keypoint
    /sharpose/end        status
"""

from __future__ import annotations

import argparse
import sys
import threading
from typing import Any

from pythonosc.dispatcher import Dispatcher
from pythonosc.osc_server import BlockingOSCUDPServer


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("port", type=int)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 for other machines")
    args = parser.parse_args(argv)

    names: list[str] = []

    def on_keypoints(address: str, *values: Any) -> None:
        names[:] = values

    def on_person(address: str, frame_id: int, track_id: int, stage: str, quality: float, *values: float) -> None:
        points = dict(zip(names, zip(*[iter(values[4:])] * 3, strict=True), strict=False))
        wrist = points.get("right_wrist")
        print(
            f"frame {frame_id}  id {track_id}  {stage}  right wrist {wrist and [round(v, 1) for v in wrist]}",
            flush=True,
        )

    dispatcher = Dispatcher()
    dispatcher.map("/sharpose/keypoints", on_keypoints)
    dispatcher.map("/sharpose/person", on_person)
    with BlockingOSCUDPServer((args.host, args.port), dispatcher) as server:
        dispatcher.map("/sharpose/end", lambda *_: threading.Thread(target=server.shutdown).start())
        server.serve_forever()


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
    except (OSError, OverflowError) as error:  # the port is taken, say, or there is none such
        sys.exit(f"error: {error}")
