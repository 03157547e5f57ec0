"""Converts a skeleton stream to arrays for action recognition, saved as .npz.

    python pipelines/skeletons_to_action_array.py walking.skeletons.jsonl walking.npz --person-slots 2 --fill linear

The file contains keypoints (M, T, V, 2) in px, scores (M, T, V), track_ids (M,), pts_s (T,) and keypoint_names (V,):
M people, those who act before bystanders, each in one slot for the whole video; T frames; V keypoints; zeros where
somebody is not in the frame. `sharpose_rt.skeletons.windows` yields windows of a live run; for the pickle of PYSKL and
MMAction2 use `sharpose_rt.skeletons.convert.convert(path, "pyskl")`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from sharpose_rt.errors import SharposeError
from sharpose_rt.skeletons import StreamReader, action_array


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stream", type=Path, help="a *.skeletons.jsonl file")
    parser.add_argument("out", type=Path, nargs="?", help="the .npz file (default: next to the stream)")
    parser.add_argument("--person-slots", type=int, default=2, help="people to keep, most prominent first (default 2)")
    parser.add_argument("--min-score", type=float, default=0.0, help="keypoints below count as not found")
    parser.add_argument("--fill", choices=("none", "linear"), default="none", help="fill gaps in a track")
    parser.add_argument("--raw", action="store_true", help="keypoints before smoothing")
    args = parser.parse_args(arguments)
    if args.person_slots < 1:
        parser.error(f"--person-slots is {args.person_slots}; 1 or more is accepted")

    out = args.out or args.stream.with_suffix(".npz")
    try:
        names = StreamReader(args.stream).header.skeleton.keypoints
        array = action_array(args.stream, args.person_slots, raw=args.raw, min_score=args.min_score, fill=args.fill)
        with out.open("wb") as file:
            np.savez_compressed(file, **array._asdict(), keypoint_names=np.array(names))
    except (SharposeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"keypoints {array.keypoints.shape}, scores {array.scores.shape}, tracks {array.track_ids.tolist()}")
    print(f"written to {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
