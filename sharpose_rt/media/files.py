"""Sources on disk: a video, an image, or a folder or glob of either."""

from __future__ import annotations

import contextlib
import difflib
import functools
import glob
import itertools
import logging
import math
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import av
import av.error
import cv2
import numpy as np
from numpy.typing import NDArray

from sharpose_rt.config.schema import SourceConfig
from sharpose_rt.errors import SourceError, not_looked_at
from sharpose_rt.machine.natural import Key, natural
from sharpose_rt.machine.paths import as_text, exists, expanded, is_file, is_folder, matching
from sharpose_rt.media.container import ContainerSource, file_address
from sharpose_rt.media.http import split_address
from sharpose_rt.media.redact import redact
from sharpose_rt.media.source import Source, SourceInfo
from sharpose_rt.media.upright import Upright

log = logging.getLogger("sharpose_rt.media")

_PICTURES = frozenset((".jpg", ".jpeg", ".jpe", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".jp2"))
# Support for these depends on OpenCV's build; it can read what it can write.
IMAGE_SUFFIXES = _PICTURES | {suffix for suffix in (".avif",) if cv2.haveImageWriter(suffix)}
_UNREAD = {".avif", ".heic", ".heif", ".jxl", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2"} - IMAGE_SUFFIXES
_MPEG = frozenset((".mp4", ".m4v", ".mov", ".mpg", ".mpeg", ".m2v", ".ts", ".mts", ".m2ts", ".vob", ".3gp", ".3g2"))
_OTHERS = frozenset(
    (".mkv", ".webm", ".avi", ".wmv", ".asf", ".flv", ".f4v", ".ogv", ".mxf", ".gif", ".dav", ".nut", ".apng", ".mj2")
)
_BARE = frozenset((".h264", ".264", ".h265", ".265", ".hevc", ".y4m", ".mjpeg", ".mjpg", ".ivf"))
VIDEO_SUFFIXES = _MPEG | _OTHERS | _BARE
_DARKEST = 16  # of 255: highest value in a picture of 12 bits stored in 16


class VideoFile(ContainerSource):
    """A video on disk."""

    kind = "video"

    def __init__(self, path: Path, config: SourceConfig) -> None:
        super().__init__(str(path), config)
        self.path = path
        self.stem = path.stem
        self.stored = _stored([path])

    def _target(self) -> str:
        return file_address(self.path)

    def _describe(self, size_wh: tuple[int, int]) -> SourceInfo:
        stored_fps = math.nan if self._fps is None else self._fps * self._slowed
        if self.config.filmed_fps is None:
            self._warn_of_slow_motion(stored_fps)
        if self.config.image_fps != SourceConfig.image_fps:
            log.warning(
                "source.image_fps is only for pictures, and %s is a video with %g frames per second; see --filmed-fps",
                self.name, stored_fps,
            )  # fmt: skip
        return super()._describe(size_wh)

    def _warn_of_slow_motion(self, stored_fps: float) -> None:
        """Phones that store slow motion at the playback rate write the filmed rate into a tag."""
        try:
            filmed_fps = float(self._container.metadata.get("com.android.capture.fps", "nan"))
        except ValueError:
            return
        if filmed_fps > 1.5 * stored_fps:
            log.warning(
                "%s was filmed at %g frames per second and is stored at %g, so times are those of the slow motion; "
                "use --filmed-fps %g for real times",
                self.name, filmed_fps, stored_fps, filmed_fps,
            )  # fmt: skip

    def _local_path(self) -> str | None:
        return str(self.path)


class Images(Source):
    """Pictures on disk in natural order, as if filmed at `config.image_fps`, each in its own size."""

    def __init__(self, spec: str, config: SourceConfig, paths: list[Path], stem: str, kind: str = "images") -> None:
        super().__init__(spec, config)
        self._paths, self._stem, self._kind = paths, stem, kind
        self._names = _names(paths)
        self._places = {name: place for place, name in enumerate(self._names)}
        self._at = -1
        self._bad = 0
        self.stored = _stored(paths)

    def is_to_come(self, name: str) -> bool:
        """Whether a picture with this name exists that was not grabbed yet."""
        return self._places.get(name, -1) > self._at

    def _open(self) -> None:
        # Pictures before the start need not be read, as their times are known.
        self._at = -1

    def _describe(self, size_wh: tuple[int, int]) -> SourceInfo:
        kept = self._kept(len(self._paths), self.config.image_fps, None)
        start_s = self.config.start_s
        return SourceInfo(self.name, self._kind, False, size_wh, start_s=start_s, stem=self._stem, **kept)  # type: ignore[arg-type]

    def _grab(self) -> float | None:
        self._at += 1
        return self._at / self.config.image_fps if self._at < len(self._paths) else None

    def _retrieve(self) -> tuple[NDArray[np.uint8], str] | None:
        path = self._paths[self._at]
        image = read_image(path)
        if image is not None:
            self._bad = 0
            return image, self._names[self._at]
        self._bad += 1
        self.faults.damaged += 1
        if self._kind == "image" or self._bad > self.config.max_bad_frames:
            raise SourceError(
                f"{path} cannot be read as an image; check that it is complete, or convert it to JPEG or PNG"
                + (f" ({self._bad} such pictures in a row)" if self._bad > 1 else "")
            )
        log.warning("%s cannot be read as an image; skipped", path)
        return None


def _stored(paths: Sequence[Path]) -> dict[str, int] | None:
    """See `Source.stored`; None if a file has disappeared."""
    try:
        return {"files": len(paths), "bytes": sum(path.stat().st_size for path in paths)}
    except OSError:
        return None


def _names(paths: Sequence[Path]) -> list[str]:
    """The names of the pictures; equal names get as many folders as are needed to distinguish them."""
    names, depth = [path.name for path in paths], 1
    while (taken := {name for name, count in Counter(names).items() if count > 1}) and len(set(paths)) == len(paths):
        depth += 1
        names = [
            "/".join(path.absolute().parts[-depth:]) if name in taken else name
            for name, path in zip(names, paths, strict=True)
        ]
    # In the form that streams and labels (UTF-8) have, so that they match.
    return [as_text(name) for name in names]


def read_image(path: str | Path, *, upright: bool = True) -> NDArray[np.uint8] | None:
    """The picture, (H, W, 3) uint8 BGR, rotated by its EXIF orientation if `upright`; None if it cannot be read.

    Pictures of machine cameras with 12 bits stored in 16 are scaled to all 8 bits; others of 16 keep their upper 8.

    cv2.imread fails on names that are not ASCII on Windows, and crashes on those that are not UTF-8 elsewhere.
    """
    flags = cv2.IMREAD_COLOR if upright else cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        data = np.fromfile(path, np.uint8)
        if upright and data[4:8].tobytes() == b"ftyp":  # an AVIF by content; OpenCV rotates all others itself
            return _upright_avif(path, data)
        image = cv2.imdecode(data, flags) if data.size else None
        if image is not None and image.max() <= _DARKEST:
            deep: Any = cv2.imdecode(data, flags | cv2.IMREAD_ANYDEPTH)
            if deep is not None and deep.dtype == np.uint16:
                image = np.minimum(deep >> 4, 255).astype(np.uint8)
        return image  # type: ignore[return-value]
    except (OSError, ValueError, cv2.error):  # ValueError: a name with a NUL
        return None


def _upright_avif(path: str | Path, data: NDArray[np.uint8]) -> NDArray[np.uint8] | None:
    """An AVIF, rotated and mirrored by its properties 'irot' and 'imir', which OpenCV ignores."""
    image: NDArray[np.uint8] | None = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None  # type: ignore[assignment]
    if image is not None:
        with (
            contextlib.suppress(av.error.FFmpegError, OSError, StopIteration),
            av.open(file_address(path)) as container,
        ):
            return Upright.as_of(next(container.decode(video=0)), image)
    return image


def open_path(spec: str, config: SourceConfig) -> Source:
    """The source for a path or glob. Raises SourceError if nothing usable is there."""
    path = _path(spec)
    if is_file(path):
        return _open_file(path, config)
    images, videos, unread = _usable(spec)
    if images:
        if unread:
            _tell_of_unread(spec, ", ".join(f"{count} {suffix}" for suffix, count in unread.most_common()))
        stem = (path if is_folder(path) else _fixed_part(path)).resolve().name or "images"
        return Images(spec, config, images, stem)
    if len(videos) > 1:
        raise SourceError(
            f"{spec} contains {len(videos)} videos, but a source is a single one; "
            "expand_sources() lists them (the command line does so)"
        )
    return _open_file(videos[0], config)


@functools.lru_cache(maxsize=64)  # once for each, no matter how often it is opened
def _tell_of_unread(spec: str, kinds: str) -> None:
    log.warning("%s has photographs that cannot be read here (%s): left out; convert them to JPEG", spec, kinds)


def expand(spec: str) -> list[str]:
    """Each video of a folder or glob, then the spec itself if it also has images; for a file only the spec."""
    if is_file(_path(spec)):
        return [spec]
    images, videos, _ = _usable(spec)
    return [str(path) for path in videos] + ([spec] if images else [])


def below(source: str, spec: str) -> Path:
    """The folder of a file relative to the fixed part of the folder or glob `source`; '.' if they are the same.

    `set/**/*.mp4` and `set/jump/001.mp4` give `jump`, so results of files with the same name stay in separate folders.
    """
    pattern, path = _path(source), _path(spec)
    if path == pattern or is_file(pattern):
        return Path()
    fixed = _without_up(pattern if is_folder(pattern) else _fixed_part(pattern))
    folder = _without_up(path.parent)
    return folder.relative_to(fixed) if folder.is_relative_to(fixed) else Path()


def _without_up(folder: Path) -> Path:
    """The folder without '..', which could lead out of the folder that it is appended to."""
    return Path(os.path.normpath(folder))


def _fixed_part(pattern: Path) -> Path:
    """The innermost folder without wildcards of a glob."""
    return next(folder for folder in pattern.parents if not glob.has_magic(str(folder)))


def _open_file(path: Path, config: SourceConfig) -> Source:
    if path.stat().st_size == 0:
        raise SourceError(f"{path} is empty (0 bytes); copy or record it again")
    suffix = path.suffix.lower()
    # As bytes, because OpenCV's binding crashes on a name that is not UTF-8.
    if suffix in IMAGE_SUFFIXES or (suffix not in VIDEO_SUFFIXES and cv2.haveImageReader(os.fsencode(path))):  # type: ignore[arg-type]
        return Images(str(path), config, [path], path.stem, kind="image")
    return VideoFile(path, config)


def _path(spec: str) -> Path:
    """The path that a spec means; raises SourceError if it cannot be accessed."""
    path = Path(unquote(split_address(spec).path)) if spec.startswith("file://") else expanded(spec)
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        pass  # perhaps a pattern
    except (OSError, ValueError) as error:
        if not glob.has_magic(str(path)):
            raise _hidden(path, error) from None
    return path


def _hidden(path: Path, error: OSError | ValueError) -> SourceError:
    reason = getattr(error, "strerror", None) or str(error)
    return SourceError(not_looked_at(redact(str(path)), reason))


def _usable(spec: str) -> tuple[list[Path], list[Path], Counter[str]]:
    """Images and videos of a folder or glob in natural order, and the number of photographs of unsupported kinds;
    SourceError if there are neither images nor videos."""
    path = _path(spec)
    shown = redact(str(path))  # an address may have lost a slash
    if is_folder(path):
        try:
            found, what = list(path.iterdir()), f"the folder {shown}"
        except OSError as error:
            raise _hidden(path, error) from None
    elif glob.has_magic(str(path)):
        found, what = list(matching(path)), f"the pattern {shown}"
        if not found:
            raise SourceError(f"{what} matches nothing; check it, and quote it so that the shell does not expand it")
    elif exists(path):
        raise SourceError(f"{shown} is a device or a pipe; a file is accepted, and `--source -` reads standard input")
    else:
        raise SourceError(f"{shown} does not exist; {_nearest(path)}")
    found = sorted((p for p in found if is_file(p) and not p.name.startswith(".")), key=natural_order)
    images = [p for p in found if p.suffix.lower() in IMAGE_SUFFIXES]
    videos = [p for p in found if p.suffix.lower() in VIDEO_SUFFIXES]
    others = Counter(p.suffix.lower() or "no suffix" for p in found)
    if not images and not videos:
        seen = ", ".join(f"{n} {suffix}" for suffix, n in others.most_common(4)) if others else "no files"
        deeper = f" ('{path}/**/{_deeper(path)}' searches its folders)" if is_folder(path) else ""
        raise SourceError(
            f"{what} has no image or video ({seen}); .jpg, .png, .mp4, .mkv and similar are accepted{deeper}"
        )
    return images, videos, Counter({suffix: n for suffix, n in others.items() if suffix in _UNREAD})


def _deeper(folder: Path) -> str:
    """The pattern to suggest for its folders: pictures if they have any, else videos."""
    suffixes = {path.suffix.lower() for path in itertools.islice(folder.glob("*/*"), 1000)}
    return "*.mp4" if suffixes & VIDEO_SUFFIXES and not suffixes & IMAGE_SUFFIXES else "*.jpg"


def natural_order(path: Path) -> tuple[list[Key], Key]:
    """A sorting key that puts 'img2' before 'img10', folder by folder with folders in the same order."""
    return [natural(folder) for folder in path.parent.parts], natural(path.name)


def _nearest(path: Path) -> str:
    if redact(str(path)) != str(path):
        return "an address begins with SCHEME://, such as rtsp://HOST/PATH"
    if not is_folder(path.parent):
        return f"there is no folder {path.parent} either"
    meant = [f"'webcam:{int(str(path))}'"] if str(path).isdecimal() else []  # as OpenCV names cameras
    names: list[str] = []
    with contextlib.suppress(PermissionError):  # some folders, such as homes of other users, cannot be listed
        names = os.listdir(path.parent)  # noqa: PTH208 - only names
    close = difflib.get_close_matches(path.name, names, 1)
    meant += [str(path.parent / name) for name in close]
    return f"did you mean {' or '.join(meant)}?" if meant else "check the path"
