"""A run as it goes: the browser view and its interfaces, and skeletons published to other programs.

Both are taps of a run (`stages.Tap`): they get the lines of the stream as they are written, and never make it wait.
"""

from sharpose_rt.live.address import Listen, Target, parse_listen, parse_target
from sharpose_rt.live.hub import Hub
from sharpose_rt.live.publish import Publisher
from sharpose_rt.live.server import LiveServer

__all__ = ["Hub", "Listen", "LiveServer", "Publisher", "Target", "parse_listen", "parse_target"]
