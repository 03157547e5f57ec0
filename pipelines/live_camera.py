"""Prints live poses from a camera or stream; Ctrl-C ends it.

    python pipelines/live_camera.py webcam
    python pipelines/live_camera.py rtsp://user:password@camera/stream

Shows how to use the tracker in your own program: each frame has its people and its age.
"""

from __future__ import annotations

import argparse
import sys
import time

from sharpose_rt import PoseTracker
from sharpose_rt.errors import SharposeError


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", nargs="?", default="webcam")
    parser.add_argument("--model", default="tiny_256x192")
    parser.add_argument("--weights", default="auto")
    parser.add_argument("--detector", default="auto")
    parser.add_argument("--frames", type=int, help="stop after N frames")
    args = parser.parse_args(argv)

    try:
        show(args)
    except SharposeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def show(args: argparse.Namespace) -> None:
    """Prints a line for each frame."""
    tracker = PoseTracker(
        args.model,
        config="live",
        source={"max_frames": args.frames},
        pose={"weights": args.weights},
        detector={"name": args.detector},
    )
    first = tracker.skeleton.keypoints[0]  # COCO's is the nose
    for frame in tracker.run(args.source):
        late_ms = (time.monotonic() - frame.frame.captured_at_s) * 1e3
        people = ", ".join(
            f"id {p.track_id} {first} ({p.keypoints[0, 0]:.0f}, {p.keypoints[0, 1]:.0f}) {p.stage}"
            for p in frame.people
        )
        print(f"{frame.pts_s:8.3f} s  {late_ms:5.0f} ms old  {people or 'nobody'}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
