"""Measures a person detector's box AP on labelled pictures, with pycocotools.

Any detector that `track --detector` accepts can be measured. Boxes on crowds and ignored regions do not count.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

HELP = "measure a detector's box AP on labelled pictures"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `sharpose-rt eval-detector`."""
    parser.add_argument(
        "--annotations", metavar="FILE", required=True, help="labels in COCO's format, or a folder in YOLO's"
    )
    parser.add_argument("--images", metavar="DIR", required=True, help="folder of the pictures")
    parser.add_argument("--detector", metavar="NAME", default="bundled", help="detector to measure (%(default)s)")
    parser.add_argument("--detector-size", type=int, metavar="PX", help="longer side of its input")
    parser.add_argument(
        "--precision",
        choices=("fp32", "int8"),
        default="fp32",
        help="int8 is simulated in torch, for the bundled detector and those of `train-detector` (%(default)s)",
    )
    parser.add_argument("--offline", action="store_true", help="download nothing")
    parser.add_argument("--json", metavar="OUT", help="write the metrics here")
    parser.add_argument(
        "--worst", metavar="OUT.png", help="draw the pictures with most people missed; boxes count from score 0.25"
    )
    parser.add_argument("--worst-plain", action="store_true", help="draw them on grey, without the photographs")


def run(args: argparse.Namespace) -> int:
    """Measures, and prints the metrics."""
    from sharpose_rt.config import DetectorConfig
    from sharpose_rt.evaluation.boxes import SCORE_THRESHOLD
    from sharpose_rt.evaluation.detector import evaluate_detector
    from sharpose_rt.evaluation.metrics import describe, write_metrics
    from sharpose_rt.evaluation.worst import check_sheet

    check_sheet(args.worst, args.worst_plain)
    config = DetectorConfig(args.detector, score_threshold=SCORE_THRESHOLD, image_size=args.detector_size)

    def tell(metrics: dict[str, Any]) -> None:
        print(describe(metrics))
        if args.json:
            write_metrics(Path(args.json), metrics)

    evaluate_detector(
        config,
        Path(args.annotations),
        Path(args.images),
        offline=args.offline,
        int8=args.precision == "int8",
        worst=Path(args.worst) if args.worst else None,
        worst_plain=args.worst_plain,
        measured=tell,
    )
    return 0
