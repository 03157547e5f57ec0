"""Where the results of a run are written: one stem for all its files, and never over those of an earlier run."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from sharpose_rt.errors import OutputError, writing

ANNOTATED, RECORDING = ".annotated.mp4", ".recording.mp4"
_MAX_STEM_BYTES = 150  # file systems take 255 bytes a name; the rest is for suffixes and temporary files


@dataclass(frozen=True)
class OutputPaths:
    """The files of one run; `reserved` exists and is empty when names were chosen afresh.

    That is the stream, or where streams are written in parts of other names `claim`, which nothing is ever written to.
    """

    stream: Path
    video: Path
    recording: Path
    image: Path
    summary: Path
    claim: Path
    reserved: Path

    @property
    def images(self) -> Path:
        """The folder of annotated pictures, where there are several."""
        return self.image.with_suffix("")

    def with_suffix(self, suffix: str) -> Path:
        """Where a further result of the run belongs: its stem and `suffix`."""
        return self.stream.with_name(self.stream.name.removesuffix(".skeletons.jsonl") + suffix)

    def release(self) -> None:
        """Removes the reservation where nothing was written there; harmless otherwise and when called again."""
        with contextlib.suppress(OSError):
            if self.reserved.stat().st_size == 0:
                self.reserved.unlink()


def output_paths(
    directory: str | Path,
    stem: str,
    overwrite: bool,
    suffixes: Sequence[str] = (),
    *,
    in_parts: bool = False,
    of_part: bool = False,
) -> OutputPaths:
    """Paths in `directory` (made when missing) that begin with `stem`, made safe for a file name.

    Unless `overwrite`, no file of an earlier run is among them: "walking-2", "walking-3" ... is taken where one of
    the files, or a result that ends in one of `suffixes`, is there. Creating the file `reserved` exclusively decides,
    so runs that start at once get different names; call `release` when the run has ended. The stem `of_part` is safe
    already, with a time behind it that must not be cut off.

    Raises:
        OutputError: the directory cannot be made or written to.
    """
    folder, stem = made(directory), stem if of_part else safe_stem(stem)
    with _writing(folder):
        number = 1
        while True:
            paths = _paths(folder, stem if number == 1 else f"{stem}-{number}", in_parts=in_parts)
            if overwrite:
                _check_writable(folder)
                return paths
            with contextlib.suppress(FileExistsError):
                paths.reserved.open("xb").close()
                # Only now: a run that ends meanwhile has its files there before it gives its name back.
                others = [other for suffix in suffixes for other in results_of(paths.with_suffix(suffix))]
                ours = {getattr(paths, item.name) for item in fields(paths)} | {paths.images}
                if not others and not any(path.exists() for path in ours - {paths.reserved}):
                    return paths
                paths.release()
            number += 1


def made(directory: str | Path) -> Path:
    """The folder of results, which is there now.

    Raises:
        OutputError: it cannot be made.
    """
    folder = Path(directory)
    with _writing(folder):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise OutputError(f"{error.filename or folder} is not a folder; give --output a folder") from error
    return folder


def _writing(folder: Path) -> contextlib.AbstractContextManager[None]:
    return writing(f"the folder {folder}", "give --output a folder that you may write to")


def is_video_of_run(path: str | Path, directory: str | Path) -> bool:
    """Whether a video lies in a folder of results, or below it, under a name that runs give those that they write."""
    path = Path(path)
    whole = path.name.replace(".part.mp4", ".mp4")  # the run is under way
    return whole.endswith((ANNOTATED, RECORDING)) and path.resolve().is_relative_to(Path(directory).resolve())


def results_of(target: Path) -> list[Path]:
    """What an earlier conversion to `target` left: the file, the folder if it is not empty, or a file a person."""
    if target.suffix == ".trc":
        name = re.compile(re.escape(target.stem) + r"_person\d+\.trc")  # not those of 'walk_personal' for 'walk'
        return sorted(path for path in target.parent.glob("*.trc") if name.fullmatch(path.name))
    taken = any(target.iterdir()) if target.is_dir() else target.exists()
    return [target] if taken else []


def check_target(target: Path, read: Iterable[Path], overwrite: bool) -> list[Path]:
    """What an earlier conversion left that one to `target` takes the place of, see `results_of`.

    Raises:
        OutputError: `target` is one of the files that are `read`, or there is such and it is not to `overwrite` it.
    """
    if target.resolve() in {path.resolve() for path in read}:
        raise OutputError(f"{target} is what is read; choose another name (--out)")
    old = results_of(target)
    if old and not overwrite:
        raise OutputError(f"{old[0]} is there already; choose another name (--out), or ask to overwrite (--overwrite)")
    return old


def named(path: str | Path) -> Path:
    """The path with a last part that is a name, which '.' and '..' have not."""
    path = Path(path)
    return path.resolve() if path.name in ("", "..") else path


def is_folder(out: str | Path) -> bool:
    """Where results are asked for is a folder: there is one, or the path ends as that of one, with a separator."""
    return str(out)[-1:] in (os.sep, os.altsep) or Path(out).is_dir()


def target_of(path: str | Path, name: str, out: str | Path | None) -> Path:
    """Where a result of `path` goes: `out`, or the file `name` in it where it is a folder, or beside `path` if None."""
    if out is None:
        return named(path).with_name(name)
    return Path(out, name) if is_folder(out) else named(out)


def unique_name(stem: str, taken: set[str]) -> str:
    """The stem of a source, or 'stem-2', 'stem-3' and so on where that is taken; it is among `taken` then."""
    names = (stem if number == 1 else f"{stem}-{number}" for number in itertools.count(1))
    name = next(name for name in names if name not in taken)
    taken.add(name)
    return name


def safe_stem(name: str) -> str:
    """`name` without what a file system might refuse or a shell misread; never empty, at most 150 bytes."""
    return shortened(re.sub(r"[^\w.+-]+", "_", name).strip("._-")) or "output"


def shortened(stem: str) -> str:
    """As much of `stem` as 150 bytes hold: a file system takes 255, and endings come behind it."""
    while len(stem.encode("utf-8", "replace")) > _MAX_STEM_BYTES:
        stem = stem[:-1]
    return stem


def _paths(folder: Path, stem: str, *, in_parts: bool) -> OutputPaths:
    stream, claim = folder / f"{stem}.skeletons.jsonl", folder / f"{stem}.summary.part"
    return OutputPaths(
        stream=stream,
        video=folder / f"{stem}{ANNOTATED}",
        recording=folder / f"{stem}{RECORDING}",
        image=folder / f"{stem}.annotated.png",
        summary=folder / f"{stem}.summary.json",
        claim=claim,
        reserved=claim if in_parts else stream,
    )


def _check_writable(folder: Path) -> None:
    probe = folder / f".sharpose-{os.getpid()}.probe"
    probe.open("wb").close()
    probe.unlink()
