"""Which kind of source an address names."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path, PurePosixPath

from sharpose_rt.config.schema import SourceConfig
from sharpose_rt.errors import SourceError
from sharpose_rt.media import files, live
from sharpose_rt.media.http import LISTS, in_pieces, is_stored
from sharpose_rt.media.paced import PacedSource
from sharpose_rt.media.reconnect import Reconnecting
from sharpose_rt.media.screen import Screen, is_screen
from sharpose_rt.media.source import Source

_STREAM_SUFFIXES = frozenset((".mjpeg", ".mjpg", ".ts", ".sdp", *LISTS))


def open_source(spec: str | Path, config: SourceConfig | None = None) -> Source:
    """The source that `spec` names, not yet opened.

    Accepts a video file, an image, a folder or a glob of images (or of one video), 'webcam', 'webcam:N', a camera's
    device path, 'screen' or a part of it, an RTSP, RTMP, SRT, UDP or HTTP(S) address, and '-' for a video on standard
    input. A camera or a stream that is lost is looked for again (`config.reconnect_s`); with `config.realtime` a file,
    or what comes on standard input, plays at its own pace.

    Raises:
        SourceError: nothing is named, nothing of that name exists, it is empty, its scheme is unknown, or it is no
            address.
    """
    spec, config = str(spec), config or SourceConfig()
    _check_named(spec)
    if spec == "-":
        return PacedSource(live.StdinVideo(config)) if config.realtime else live.StdinVideo(config)
    if (device := live.camera_device(spec)) is not None:
        return Reconnecting(spec, config, lambda: live.Camera(spec, config, device))
    if is_screen(spec):
        return Reconnecting(spec, config, lambda: Screen(spec, config))
    if "://" in spec and not spec.startswith("file://"):
        source = Reconnecting(spec, config, lambda: live.NetworkVideo(spec, config))
        stored = config.realtime and not is_live(spec, replace(config, realtime=False))
        return PacedSource(source) if in_pieces(spec) or stored else source
    source = files.open_path(spec, config)
    return PacedSource(source) if config.realtime else source


def _check_named(spec: str) -> None:
    """SourceError where nothing is named, as by a script's unset variable: an empty path is the current folder."""
    if not spec.removeprefix("file://").strip():
        raise SourceError(
            f"the source is {spec!r}, which names nothing; a video, a picture, a folder, webcam or an address is "
            "accepted ('.' for this folder)"
        )


def _is_device(spec: str) -> bool:
    return live.camera_device(spec) is not None or is_screen(spec)


def expand_sources(spec: str) -> list[str]:
    """The specs to run one after another: each video of a folder or glob by itself, then its images as one source.

    Any other spec comes back alone and unchecked. Raises SourceError where nothing is named, or a folder or glob holds
    nothing usable.
    """
    _check_named(spec)
    if spec == "-" or _is_device(spec) or ("://" in spec and not spec.startswith("file://")):
        return [spec]
    return files.expand(spec)


def is_live(spec: str, config: SourceConfig | None = None) -> bool:
    """Whether `spec` names something that goes on without us (or is to be played so), told before it is opened.

    HTTP(S) serves both: an address that ends as video files do is taken for a file, one that ends as streams do for a
    stream; of any other the server is asked (`http.is_stored`).
    """
    if _is_device(spec) or (config is not None and config.realtime):
        return True
    scheme, sign, rest = spec.partition("://")
    if not sign or scheme.lower() == "file":
        return False
    suffix = PurePosixPath(rest.partition("?")[0].partition("#")[0]).suffix.lower()
    if scheme.lower() not in ("http", "https") or suffix in _STREAM_SUFFIXES:
        return True
    config = config or SourceConfig()
    return suffix not in files.VIDEO_SUFFIXES and not is_stored(spec, config.open_timeout_s, config.tls)
