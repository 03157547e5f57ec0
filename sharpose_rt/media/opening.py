"""Opens the kind of source that an address names."""

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
    input. A lost camera or stream is reconnected (`config.reconnect_s`). With `config.realtime`, a file or standard
    input plays at its own pace.

    Raises:
        SourceError: the spec is blank or malformed, nothing of that name exists, it is empty, or its scheme is unknown.
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
    """SourceError if the spec is blank, as from an unset variable, since an empty path is the current folder."""
    if not spec.removeprefix("file://").strip():
        raise SourceError(
            f"the source is {spec!r}, which names nothing; a video, a picture, a folder, webcam or an address is "
            "accepted ('.' for the current folder)"
        )


def _is_device(spec: str) -> bool:
    return live.camera_device(spec) is not None or is_screen(spec)


def expand_sources(spec: str) -> list[str]:
    """The specs to run one after another: each video of a folder or glob, then its images as one source.

    Any other spec is returned alone and unchecked. Raises SourceError if the spec is blank, or a folder or glob
    contains nothing usable.
    """
    _check_named(spec)
    if spec == "-" or _is_device(spec) or ("://" in spec and not spec.startswith("file://")):
        return [spec]
    return files.expand(spec)


def is_live(spec: str, config: SourceConfig | None = None) -> bool:
    """Whether `spec` names something that continues without us (or is to be played so), known before it is opened.

    HTTP(S) serves both: an address with the suffix of a video file counts as a file, one with that of a stream as a
    stream; for any other the server is asked (`http.is_stored`).
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
