"""Threads, channels and statistics of a pipeline; knows nothing of video or poses."""

from sharpose_rt.runtime.channel import SLOW_CONSUMER, SLOW_DECODER, Cancelled, Channel, EndOfStream
from sharpose_rt.runtime.pipeline import Pipeline
from sharpose_rt.runtime.stage import BaseStage, Chain, Source, Stage, Status
from sharpose_rt.runtime.stats import ChannelStats, LatencyHistogram, PipelineStats, StageMeter, StageStats

__all__ = [
    "SLOW_CONSUMER",
    "SLOW_DECODER",
    "BaseStage",
    "Cancelled",
    "Chain",
    "Channel",
    "ChannelStats",
    "EndOfStream",
    "LatencyHistogram",
    "Pipeline",
    "PipelineStats",
    "Source",
    "Stage",
    "StageMeter",
    "StageStats",
    "Status",
]
