"""Counts people who cross a line or are in a zone, with the lines and zones of `supervision`.

    python pipelines/count_crossings.py street.mp4 --line '0,500 1280,500'
    python pipelines/count_crossings.py webcam --zone '100,300 500,300 600,700 50,700' --video counted.mp4

Prints a line of JSON for each crossing, whenever somebody enters or leaves the zone, and the totals at the end (stop a
camera with Ctrl-C). The position of a person is between their ankles, or if these are not visible, the middle of the
lower edge of the box. 'in' is from the right of the line to its left, seen from its first point towards the second.
"""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import ExitStack, suppress
from pathlib import Path

import numpy as np
import supervision as sv
from numpy.typing import NDArray

from sharpose_rt import Poses, PoseTracker
from sharpose_rt.config import load
from sharpose_rt.errors import SharposeError
from sharpose_rt.media import VideoWriter
from sharpose_rt.skeleton import COCO17

ANKLES = [COCO17.keypoints.index("left_ankle"), COCO17.keypoints.index("right_ankle")]
SURE = 0.3  # least score of a visible keypoint
STAYS = 5  # frames beyond the line before a crossing counts: somebody standing on it crosses it only once


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="a video, a camera (webcam) or an address")
    parser.add_argument("--line", type=points, metavar="'X,Y X,Y'", help="two points, px")
    parser.add_argument("--zone", type=points, metavar="'X,Y X,Y X,Y ...'", help="corners of a polygon, px")
    parser.add_argument("--video", metavar="FILE", help="write the video with line, zone and skeletons, as .mp4")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="any option of a run")
    args = parser.parse_args(argv)
    if args.line is None and args.zone is None:
        parser.error("there is nothing to count; give --line, --zone or both")
    if args.line is not None and len(args.line) != 2:
        parser.error(f"--line has {len(args.line)} points; two are accepted")
    if args.line is not None and (args.line[0] == args.line[1]).all():
        parser.error("--line begins where it ends; two different points are accepted")
    if args.zone is not None and len(args.zone) < 3:
        parser.error(f"--zone has {len(args.zone)} corners; three or more are accepted")
    try:
        count(args)
    except SharposeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def count(args: argparse.Namespace) -> None:
    """Prints the events of the source, and at the end how many people crossed and were in the zone."""
    line = zone = writer = None
    if args.line is not None:
        ends = (sv.Point(*map(float, end)) for end in args.line)
        line = sv.LineZone(*ends, triggering_anchors=[sv.Position.CENTER], minimum_crossing_threshold=STAYS)
    if args.zone is not None:
        zone = sv.PolygonZone(args.zone, triggering_anchors=[sv.Position.CENTER])
    inside: set[int] = set()
    been: set[int] = set()
    with ExitStack() as stack, suppress(KeyboardInterrupt):  # what was counted is told all the same
        tracker = stack.enter_context(PoseTracker(config=load(None, args.set)))
        for frame in tracker.run(args.source):
            standing = where_they_stand(frame.poses)
            ids = frame.poses.track_ids
            events: list[tuple[str, int]] = []
            if line is not None:
                for event, crossed in zip(("in", "out"), line.trigger(standing), strict=True):
                    events += [(event, int(who)) for who in ids[crossed]]
            if zone is not None:
                now = set(map(int, ids[zone.trigger(standing)]))
                events += [("enter", who) for who in sorted(now - inside)]
                events += [("leave", who) for who in sorted(inside - now)]
                inside, been = now, been | now
            for event, who in events:
                print(json.dumps({"pts_s": round(frame.pts_s, 3), "track_id": who, "event": event}), flush=True)
            if args.video:
                if writer is None:
                    writer = VideoWriter(Path(args.video), frame.frame.size_wh, None)
                    stack.callback(writer.close)
                writer.write(drawn(frame.drawn(), line, zone), frame.pts_s)
    totals = {} if line is None else {"in": line.in_count, "out": line.out_count}
    totals |= {} if zone is None else {"in_zone": len(been), "in_zone_at_the_end": len(inside)}
    print(json.dumps(totals))


def where_they_stand(poses: Poses) -> sv.Detections:
    """The people as points on the ground: boxes without extent, in the same order."""
    detections, _ = poses.to_supervision()
    x0, _, x1, y1 = detections.xyxy.T
    feet = np.stack([(x0 + x1) / 2, y1], 1)
    seen = (poses.keypoint_scores[:, ANKLES] >= SURE).all(1)
    feet[seen] = poses.keypoints[seen][:, ANKLES].mean(1)
    detections.xyxy = np.hstack([feet, feet])
    return detections


def drawn(picture: NDArray[np.uint8], line: sv.LineZone | None, zone: sv.PolygonZone | None) -> NDArray[np.uint8]:
    """The picture with the line and its counts, and the zone and how many are in it."""
    if zone is not None:
        picture = sv.PolygonZoneAnnotator(zone, sv.Color.YELLOW).annotate(picture)
    if line is not None:
        picture = sv.LineZoneAnnotator().annotate(picture, line)
    return picture


def points(text: str) -> NDArray[np.int64]:
    """Points (N, 2), px, of 'X,Y X,Y ...'."""
    try:
        found = np.array([[int(value) for value in point.split(",")] for point in text.split()], np.int64)
    except ValueError:
        found = np.zeros(0, np.int64)
    if found.shape[1:] != (2,):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of points; 'X,Y X,Y ...' in whole px is accepted")
    return found


if __name__ == "__main__":
    sys.exit(main())
