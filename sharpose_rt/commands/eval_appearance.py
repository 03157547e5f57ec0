"""Measures how well people are known again by their looks, on a video and the skeleton stream of a run over it.

The run has to remember nobody (`--set tracker.remember_s=0`): then each id is a track without a gap, and who has one id
at two times is one person.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

log = logging.getLogger("sharpose_rt")

HELP = "measure how well people are known again by their looks"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `sharpose-rt eval-appearance`."""
    parser.add_argument("stream", metavar="STREAM", help="a *.skeletons.jsonl file")
    parser.add_argument("video", metavar="VIDEO", help="the video that it was made of, or a recording of it")
    parser.add_argument("--weights", metavar="FILE", help="what `train-appearance` wrote (the network that ships)")
    parser.add_argument("--json", metavar="OUT", help="write the metrics here")


def run(args: argparse.Namespace) -> int:
    """Measure as `args` say; 0 when done."""
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
        log.warning("%d frames have no picture at their time in the video: left out", frames.unseen)
    print(describe(metrics))
    if args.json:
        write_metrics(Path(args.json), metrics)
    return 0
