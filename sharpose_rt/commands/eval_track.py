"""Measures tracks: HOTA, IDF1, MOTA and id switches against labels, and the jitter of raw and smoothed keypoints.

Labels are MOTChallenge text (gt.txt), JSON in COCO's format with track_id and frame_id, or another skeleton stream.
Without labels, only the jitter is measured.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from sharpose_rt.errors import ConfigError

HELP = "measure tracks (HOTA, IDF1, MOTA, id switches) and jitter of a skeleton stream"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `sharpose-rt eval-track`."""
    parser.add_argument("stream", metavar="STREAM", help="a *.skeletons.jsonl file")
    parser.add_argument("--truth", metavar="FILE", help="labels: MOT text, COCO .json, or a stream (.jsonl)")
    parser.add_argument(
        "--similarity", choices=("iou", "oks"), default="iou", help="compare boxes or poses (%(default)s)"
    )
    parser.add_argument(
        "--threshold",
        type=float,
        default=0.5,
        metavar="S",
        help="least similarity of a match for MOTA and IDF1 (%(default)s)",
    )
    parser.add_argument(
        "--min-score",
        type=float,
        default=0.3,
        metavar="S",
        help="do not measure the jitter of keypoints with lower scores (%(default)s)",
    )
    parser.add_argument("--json", metavar="OUT", help="write the metrics here")


def run(args: argparse.Namespace) -> int:
    """Measures, and prints the metrics."""
    from sharpose_rt.evaluation.metrics import describe, write_metrics
    from sharpose_rt.evaluation.tracks import evaluate_tracks

    for name in ("threshold", "min_score"):
        if not 0 <= getattr(args, name) <= 1:
            raise ConfigError(f"--{name.replace('_', '-')} is {getattr(args, name)}; 0 to 1 is accepted")
    metrics = evaluate_tracks(
        Path(args.stream),
        Path(args.truth) if args.truth else None,
        similarity=args.similarity,
        threshold=args.threshold,
        min_score=args.min_score,
    )
    print(describe(metrics))
    if args.json:
        write_metrics(Path(args.json), metrics)
    return 0
