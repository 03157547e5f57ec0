"""Reads sources with their true media times, draws on pictures, and writes the annotated video."""

from sharpose_rt.media.draw import Painter, track_colour
from sharpose_rt.media.files import below
from sharpose_rt.media.group import Round, SourceGroup
from sharpose_rt.media.opening import expand_sources, is_live, open_source
from sharpose_rt.media.paced import PacedSource
from sharpose_rt.media.redact import redact
from sharpose_rt.media.source import Source, SourceInfo
from sharpose_rt.media.writer import VideoWriter, write_image

__all__ = [
    "PacedSource",
    "Painter",
    "Round",
    "Source",
    "SourceGroup",
    "SourceInfo",
    "VideoWriter",
    "below",
    "expand_sources",
    "is_live",
    "open_source",
    "redact",
    "track_colour",
    "write_image",
]
