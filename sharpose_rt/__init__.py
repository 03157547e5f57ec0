"""Real-time multi-person pose tracking: video in, tracked and time-stamped skeletons out.

from sharpose_rt import PoseTracker

for frame in PoseTracker("tiny_256x192").run("video.mp4"):
    frame.people[0].keypoints
"""

from __future__ import annotations

from typing import TYPE_CHECKING

__all__ = ["Frame", "PoseTracker", "Poses", "SHaRPose", "TrackedFrame", "open_source"]

if TYPE_CHECKING:
    from sharpose_rt.api import PoseTracker, SHaRPose, TrackedFrame
    from sharpose_rt.media import open_source
    from sharpose_rt.types import Frame, Poses

    __version__: str

_HOMES = {
    "Frame": "types",
    "Poses": "types",
    "PoseTracker": "api",
    "SHaRPose": "api",
    "TrackedFrame": "api",
    "open_source": "media",
}


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES, "__version__"})  # for name completion, as they are imported lazily


if not TYPE_CHECKING:  # otherwise a type checker accepts any misspelt name

    def __getattr__(name: str) -> object:
        # Imported lazily, so that `sharpose-rt --help` and readers of skeleton streams do not wait for torch and
        # OpenCV.
        if name in _HOMES:
            from importlib import import_module

            return getattr(import_module(f"sharpose_rt.{_HOMES[name]}"), name)
        if name == "__version__":
            from importlib import metadata

            try:
                return metadata.version("sharpose-rt")
            except metadata.PackageNotFoundError:  # run from a checkout that was never installed
                return "0+unknown"
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
