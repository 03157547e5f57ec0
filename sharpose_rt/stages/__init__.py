"""The steps of a run as pipeline stages, each a thin adapter around one package of this project."""

from sharpose_rt.stages.budget import BudgetController
from sharpose_rt.stages.detect import DetectStage
from sharpose_rt.stages.dropped import count_dropped
from sharpose_rt.stages.estimate import EstimateStage
from sharpose_rt.stages.recall import ChoosePeopleStage, IdentifyStage, RecallStage, StoredFrame, StoredFrames, Swap
from sharpose_rt.stages.sinks import Feed, ImageSink, Part, PartedSink, Sink, StreamSink, Tap, VideoSink, captured_at
from sharpose_rt.stages.smooth import SmoothStage
from sharpose_rt.stages.track import TrackStage
from sharpose_rt.stages.write import RunTotals, WriteStage

__all__ = [
    "BudgetController",
    "ChoosePeopleStage",
    "DetectStage",
    "EstimateStage",
    "Feed",
    "IdentifyStage",
    "ImageSink",
    "Part",
    "PartedSink",
    "RecallStage",
    "RunTotals",
    "Sink",
    "SmoothStage",
    "StoredFrame",
    "StoredFrames",
    "StreamSink",
    "Swap",
    "Tap",
    "TrackStage",
    "VideoSink",
    "WriteStage",
    "captured_at",
    "count_dropped",
]
