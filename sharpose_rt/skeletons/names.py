"""Names for the results of a run: one stem for all files, never replacing those of an earlier run."""

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
_MAX_STEM_BYTES = 150  # file systems allow 255 bytes per name; the rest is for suffixes and temporary files


@dataclass(frozen=True)
class OutputPaths:
    """The files of one run; `reserved` exists and is empty when new names were chosen.

    That is the stream, or `claim`, which is never written to, if the stream is written in parts with other names.
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
        """The folder of annotated pictures, if there are several."""
        return self.image.with_suffix("")

    def with_suffix(self, suffix: str) -> Path:
        """The path of a further result of the run: its stem and `suffix`."""
        return self.stream.with_name(self.stream.name.removesuffix(".skeletons.jsonl") + suffix)

    def release(self) -> None:
        """Removes the reservation if nothing was written to it; may be called more than once."""
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
    """Paths in `directory` (created if missing) that begin with `stem`, made safe for a file name.

    Unless `overwrite`, they never name a file of an earlier run: if one of the files, or a result that ends in one of
    `suffixes`, exists, "walking-2", "walking-3" ... is used. The file `reserved` is created exclusively, so that runs
    started at the same time get different names; call `release` when the run has ended. With `of_part` the stem is safe
    already and ends with a time that must not be cut off.

    Raises:
        OutputError: the directory cannot be created or written to.
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
                # Only now: a run that ends meanwhile writes its files before it releases its name.
                others = [other for suffix in suffixes for other in results_of(paths.with_suffix(suffix))]
                ours = {getattr(paths, item.name) for item in fields(paths)} | {paths.images}
                if not others and not any(path.exists() for path in ours - {paths.reserved}):
                    return paths
                paths.release()
            number += 1


def made(directory: str | Path) -> Path:
    """The folder for results, created if missing.

    Raises:
        OutputError: it cannot be created.
    """
    folder = Path(directory)
    with _writing(folder):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise OutputError(f"{error.filename or folder} is not a folder; give --output a folder") from error
    return folder


def _writing(folder: Path) -> contextlib.AbstractContextManager[None]:
    return writing(f"the folder {folder}", "choose an --output that you may write to")


def is_video_of_run(path: str | Path, directory: str | Path) -> bool:
    """Whether a video is in or below a folder of results and has the name of one that runs write."""
    path = Path(path)
    whole = path.name.replace(".part.mp4", ".mp4")  # the run is not finished
    return whole.endswith((ANNOTATED, RECORDING)) and path.resolve().is_relative_to(Path(directory).resolve())


def results_of(target: Path) -> list[Path]:
    """Results of an earlier conversion to `target`: the file, the folder if it is not empty, or one file per person."""
    if target.suffix == ".trc":
        name = re.compile(re.escape(target.stem) + r"_person\d+\.trc")  # not those of 'walk_personal' for 'walk'
        return sorted(path for path in target.parent.glob("*.trc") if name.fullmatch(path.name))
    taken = any(target.iterdir()) if target.is_dir() else target.exists()
    return [target] if taken else []


def check_target(target: Path, read: Iterable[Path], overwrite: bool) -> list[Path]:
    """Results of an earlier conversion that one to `target` replaces, see `results_of`.

    Raises:
        OutputError: `target` is an input (`read`), or there are such results and `overwrite` is False.
    """
    if target.resolve() in {path.resolve() for path in read}:
        raise OutputError(f"{target} is an input; choose another name (--out)")
    old = results_of(target)
    if old and not overwrite:
        raise OutputError(f"{old[0]} exists already; choose another name (--out), or replace it (--overwrite)")
    return old


def named(path: str | Path) -> Path:
    """The path with a last part that is a name, unlike '.' and '..'."""
    path = Path(path)
    return path.resolve() if path.name in ("", "..") else path


def is_folder(out: str | Path) -> bool:
    """Whether `out` is a folder: it exists as one, or ends with a separator."""
    return str(out)[-1:] in (os.sep, os.altsep) or Path(out).is_dir()


def target_of(path: str | Path, name: str, out: str | Path | None) -> Path:
    """Where to write a result of `path`: `out`, or the file `name` in it if it is a folder, or next to `path` if
    None."""
    if out is None:
        return named(path).with_name(name)
    return Path(out, name) if is_folder(out) else named(out)


def unique_name(stem: str, taken: set[str]) -> str:
    """The stem of a source, or 'stem-2', 'stem-3' and so on if that is taken; adds it to `taken`."""
    names = (stem if number == 1 else f"{stem}-{number}" for number in itertools.count(1))
    name = next(name for name in names if name not in taken)
    taken.add(name)
    return name


def safe_stem(name: str) -> str:
    """`name` without characters that file systems or shells may not accept; never empty, at most 150 bytes."""
    return shortened(re.sub(r"[^\w.+-]+", "_", name).strip("._-")) or "output"


def shortened(stem: str) -> str:
    """`stem` shortened to 150 bytes: file systems allow 255, including suffixes."""
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
