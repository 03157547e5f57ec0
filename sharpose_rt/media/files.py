"""Sources that lie on disk: a video, an image, or a folder or glob of either."""

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
# Whether OpenCV knows these depends on how it was built; what it can write it reads.
IMAGE_SUFFIXES = _PICTURES | {suffix for suffix in (".avif",) if cv2.haveImageWriter(suffix)}
_UNREAD = {".avif", ".heic", ".heif", ".jxl", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2"} - IMAGE_SUFFIXES
_MPEG = frozenset((".mp4", ".m4v", ".mov", ".mpg", ".mpeg", ".m2v", ".ts", ".mts", ".m2ts", ".vob", ".3gp", ".3g2"))
_OTHERS = frozenset(
    (".mkv", ".webm", ".avi", ".wmv", ".asf", ".flv", ".f4v", ".ogv", ".mxf", ".gif", ".dav", ".nut", ".apng", ".mj2")
)
_BARE = frozenset((".h264", ".264", ".h265", ".265", ".hevc", ".y4m", ".mjpeg", ".mjpg", ".ivf"))
VIDEO_SUFFIXES = _MPEG | _OTHERS | _BARE
_DARKEST = 16  # of 255: nothing is brighter in a picture of 12 bits that lie in 16


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
                "source.image_fps is of pictures, and %s is a video of %g frames a second; see --filmed-fps too",
                self.name, stored_fps,
            )  # fmt: skip
        return super()._describe(size_wh)

    def _warn_of_slow_motion(self, stored_fps: float) -> None:
        """Phones that store slow motion at the rate it is played at say in a tag at which they filmed."""
        try:
            filmed_fps = float(self._container.metadata.get("com.android.capture.fps", "nan"))
        except ValueError:
            return
        if filmed_fps > 1.5 * stored_fps:
            log.warning(
                "%s was filmed at %g frames a second and is stored at %g: times are those of the slowed picture; "
                "--filmed-fps %g gives those of the scene",
                self.name, filmed_fps, stored_fps, filmed_fps,
            )  # fmt: skip

    def _local_path(self) -> str | None:
        return str(self.path)


class Images(Source):
    """Pictures on disk in natural order, as if filmed at `config.image_fps`; each keeps its own size."""

    def __init__(self, spec: str, config: SourceConfig, paths: list[Path], stem: str, kind: str = "images") -> None:
        super().__init__(spec, config)
        self._paths, self._stem, self._kind = paths, stem, kind
        self._names = _names(paths)
        self._places = {name: place for place, name in enumerate(self._names)}
        self._at = -1
        self._bad = 0
        self.stored = _stored(paths)

    def is_to_come(self, name: str) -> bool:
        """Whether there is a picture of that name that was not grabbed yet."""
        return self._places.get(name, -1) > self._at

    def _open(self) -> None:
        # Pictures before the start need not be touched: their times are known.
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
                f"{path} cannot be read as an image; see that it is whole, or convert it to JPEG or PNG"
                + (f" ({self._bad} such pictures in a row)" if self._bad > 1 else "")
            )
        log.warning("%s cannot be read as an image; skipped", path)
        return None


def _stored(paths: Sequence[Path]) -> dict[str, int] | None:
    """See `Source.stored`; None where a file is gone meanwhile."""
    try:
        return {"files": len(paths), "bytes": sum(path.stat().st_size for path in paths)}
    except OSError:
        return None


def _names(paths: Sequence[Path]) -> list[str]:
    """The pictures' names; of several of one name with as many of their folders as tell them apart."""
    names, depth = [path.name for path in paths], 1
    while (taken := {name for name, count in Counter(names).items() if count > 1}) and len(set(paths)) == len(paths):
        depth += 1
        names = [
            "/".join(path.absolute().parts[-depth:]) if name in taken else name
            for name, path in zip(names, paths, strict=True)
        ]
    # As streams and labels, which are UTF-8, have them: so each finds its picture again.
    return [as_text(name) for name in names]


def read_image(path: str | Path, *, upright: bool = True) -> NDArray[np.uint8] | None:
    """The picture, (H, W, 3) uint8 BGR, turned as its EXIF orientation says if `upright`; None where it cannot be read.

    What machine cameras store of 12 bits in 16 is brightened to all of 8; other pictures of 16 keep their upper 8.

    cv2.imread fails at names that are not ASCII on Windows, and crashes at those that are not UTF-8 elsewhere.
    """
    flags = cv2.IMREAD_COLOR if upright else cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        data = np.fromfile(path, np.uint8)
        if upright and data[4:8].tobytes() == b"ftyp":  # an AVIF by any name; one in name alone OpenCV turns itself
            return _upright_avif(path, data)
        image = cv2.imdecode(data, flags) if data.size else None
        if image is not None and image.max() <= _DARKEST:
            deep: Any = cv2.imdecode(data, flags | cv2.IMREAD_ANYDEPTH)
            if deep is not None and deep.dtype == np.uint16:
                image = np.minimum(deep >> 4, 255).astype(np.uint8)
        return image  # type: ignore[return-value]
    except (OSError, ValueError, cv2.error):  # a name may have a NUL in it
        return None


def _upright_avif(path: str | Path, data: NDArray[np.uint8]) -> NDArray[np.uint8] | None:
    """An AVIF, turned and mirrored as its properties 'irot' and 'imir' say, which OpenCV does not look at."""
    image: NDArray[np.uint8] | None = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None  # type: ignore[assignment]
    if image is not None:
        with (
            contextlib.suppress(av.error.FFmpegError, OSError, StopIteration),
            av.open(file_address(path)) as container,
        ):
            return Upright.as_of(next(container.decode(video=0)), image)
    return image


def open_path(spec: str, config: SourceConfig) -> Source:
    """The source for a path or glob. Raises SourceError when there is nothing usable."""
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
            f"{spec} holds {len(videos)} videos, and a source is one of them; "
            "expand_sources() gives them one by one (the command line does so)"
        )
    return _open_file(videos[0], config)


@functools.lru_cache(maxsize=64)  # once for each, however often it is opened
def _tell_of_unread(spec: str, kinds: str) -> None:
    log.warning("%s has photographs that nothing here reads (%s): left out; convert them to JPEG", spec, kinds)


def expand(spec: str) -> list[str]:
    """Each video of a folder or glob, then the spec itself where it also has images; a file alone as it is."""
    if is_file(_path(spec)):
        return [spec]
    images, videos, _ = _usable(spec)
    return [str(path) for path in videos] + ([spec] if images else [])


def below(source: str, spec: str) -> Path:
    """The folder of one file of a folder or glob below the part of that which is fixed; '.' where it lies in that.

    `set/**/*.mp4` and `set/jump/001.mp4` give `jump`: so results of files of one name keep the folders that tell them
    apart.
    """
    pattern, path = _path(source), _path(spec)
    if path == pattern or is_file(pattern):
        return Path()
    fixed = _without_up(pattern if is_folder(pattern) else _fixed_part(pattern))
    folder = _without_up(path.parent)
    return folder.relative_to(fixed) if folder.is_relative_to(fixed) else Path()


def _without_up(folder: Path) -> Path:
    """The folder without the '..' in it, which would lead out of another that it is put below."""
    return Path(os.path.normpath(folder))


def _fixed_part(pattern: Path) -> Path:
    """The folder that all files of a glob lie in."""
    return next(folder for folder in pattern.parents if not glob.has_magic(str(folder)))


def _open_file(path: Path, config: SourceConfig) -> Source:
    if path.stat().st_size == 0:
        raise SourceError(f"{path} is empty (0 bytes); copy or record it again")
    suffix = path.suffix.lower()
    # As bytes: OpenCV's way from Python crashes at a name that is not UTF-8.
    if suffix in IMAGE_SUFFIXES or (suffix not in VIDEO_SUFFIXES and cv2.haveImageReader(os.fsencode(path))):  # type: ignore[arg-type]
        return Images(str(path), config, [path], path.stem, kind="image")
    return VideoFile(path, config)


def _path(spec: str) -> Path:
    """The path that a spec means; raises SourceError where it is none that can be looked at."""
    path = Path(unquote(split_address(spec).path)) if spec.startswith("file://") else expanded(spec)
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        pass  # a pattern perhaps
    except (OSError, ValueError) as error:
        if not glob.has_magic(str(path)):
            raise _hidden(path, error) from None
    return path


def _hidden(path: Path, error: OSError | ValueError) -> SourceError:
    reason = getattr(error, "strerror", None) or str(error)
    return SourceError(not_looked_at(redact(str(path)), reason))


def _usable(spec: str) -> tuple[list[Path], list[Path], Counter[str]]:
    """Images and videos of a folder or glob, in natural order, and how many photographs of kinds that are not read;
    SourceError when there are neither images nor videos."""
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
            raise SourceError(f"{what} matches nothing; check it, and quote it so that the shell leaves it alone")
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
        deeper = f" ('{path}/**/{_deeper(path)}' looks into its folders)" if is_folder(path) else ""
        raise SourceError(
            f"{what} has no image or video ({seen}); .jpg, .png, .mp4, .mkv and the like are accepted{deeper}"
        )
    return images, videos, Counter({suffix: n for suffix, n in others.items() if suffix in _UNREAD})


def _deeper(folder: Path) -> str:
    """What to ask for of its folders: pictures where there are such, else videos."""
    suffixes = {path.suffix.lower() for path in itertools.islice(folder.glob("*/*"), 1000)}
    return "*.mp4" if suffixes & VIDEO_SUFFIXES and not suffixes & IMAGE_SUFFIXES else "*.jpg"


def natural_order(path: Path) -> tuple[list[Key], Key]:
    """A sorting key that puts 'img2' before 'img10', folder by folder, and those in the same way."""
    return [natural(folder) for folder in path.parent.parts], natural(path.name)


def _nearest(path: Path) -> str:
    if redact(str(path)) != str(path):
        return "an address begins with SCHEME://, as in rtsp://HOST/PATH"
    if not is_folder(path.parent):
        return f"there is no folder {path.parent} either"
    meant = [f"'webcam:{int(str(path))}'"] if str(path).isdecimal() else []  # OpenCV names cameras so
    names: list[str] = []
    with contextlib.suppress(PermissionError):  # a folder may be entered and not be listed, as others' homes
        names = os.listdir(path.parent)  # noqa: PTH208 - names alone
    close = difflib.get_close_matches(path.name, names, 1)
    meant += [str(path.parent / name) for name in close]
    return f"did you mean {' or '.join(meant)}?" if meant else "check the path"
