"""Measures how well people are recognised by their appearance, on a video and the skeleton stream of a run over it.

The run must not remember people (`--set tracker.remember_s=0`), so that each id is a track without gaps and belongs to
one person.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

log = logging.getLogger("sharpose_rt")

HELP = "measure how well people are recognised by their appearance"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `sharpose-rt eval-appearance`."""
    parser.add_argument("stream", metavar="STREAM", help="a *.skeletons.jsonl file")
    parser.add_argument("video", metavar="VIDEO", help="the video that it was made from, or its recording")
    parser.add_argument("--weights", metavar="FILE", help="network from `train-appearance` (default: the included one)")
    parser.add_argument("--json", metavar="OUT", help="write the metrics here")


def run(args: argparse.Namespace) -> int:
    """Measures, and prints the metrics."""
    from sharpose_rt.config import SourceConfig
    from sharpose_rt.engine import Appearance
    from sharpose_rt.evaluation.appearance import evaluate_appearance
    from sharpose_rt.evaluation.metrics import describe, write_metrics
    from sharpose_rt.skeletons import StreamReader
    from sharpose_rt.stages import StoredFrame, StoredFrames

    network = Appearance(Path(args.weights)) if args.weights else Appearance()
    reader = StreamReader(args.stream)
    frames = StoredFrames(reader, reader.warn_unless_complete(), SourceConfig(), args.video)
    with frames:
        pictured = (frame for frame in frames if isinstance(frame, StoredFrame) and frame.pictured)
        metrics = evaluate_appearance(((frame.image_bgr, frame.record) for frame in pictured), network.look)
    if frames.unseen:
        log.warning("left out %d frames: the video has no picture at their time", frames.unseen)
    print(describe(metrics))
    if args.json:
        write_metrics(Path(args.json), metrics)
    return 0
