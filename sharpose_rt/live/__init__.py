"""A run while it happens: the browser view and its interfaces, skeletons for other programs, video for other servers.

All are taps of a run (`stages.Tap`): they get the lines of the stream as they are written, and never make it wait long.
"""

from sharpose_rt.live.address import Listen, Target, VideoTarget, parse_listen, parse_target, parse_video_target
from sharpose_rt.live.hub import Hub
from sharpose_rt.live.publish import Publisher
from sharpose_rt.live.server import LiveServer
from sharpose_rt.live.video import VideoPublisher

__all__ = [
    "Hub",
    "Listen",
    "LiveServer",
    "Publisher",
    "Target",
    "VideoPublisher",
    "VideoTarget",
    "parse_listen",
    "parse_target",
    "parse_video_target",
]
