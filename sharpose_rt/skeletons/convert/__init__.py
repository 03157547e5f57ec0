"""A skeleton stream in the formats of other programs.

openpose    folder with a JSON 1.3 file a frame, person_id filled
alphapose   JSON list of AlphaPose results
coco        JSON list of COCO keypoint results
kinetics    Kinetics-skeleton JSON (ST-GCN)
pyskl       pickle of PYSKL and MMAction2
mot         MOTChallenge text
csv         a row for each person of each frame
trc         OpenSim markers, a file a person
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from sharpose_rt.errors import ConfigError, OutputError
from sharpose_rt.skeletons.convert.alphapose import write_alphapose
from sharpose_rt.skeletons.convert.coco import write_coco
from sharpose_rt.skeletons.convert.common import stem_of
from sharpose_rt.skeletons.convert.kinetics import write_kinetics
from sharpose_rt.skeletons.convert.openpose import write_openpose
from sharpose_rt.skeletons.convert.pyskl import pyskl_annotation, write_pyskl
from sharpose_rt.skeletons.convert.tables import write_csv, write_mot
from sharpose_rt.skeletons.convert.trc import write_trc
from sharpose_rt.skeletons.stream import StreamReader

__all__ = ["WRITERS", "Writer", "convert", "pyskl_annotation"]


class Writer(NamedTuple):
    """A format: `write(reader, out, **options)`, what its name ends with, and the functions that take its options."""

    write: Callable[..., Any]
    suffix: str
    options_of: tuple[Callable[..., Any], ...]

    @property
    def options(self) -> dict[str, Any]:
        """Options by name, with their defaults."""
        parameters = [p for f in self.options_of for p in inspect.signature(f).parameters.values()]
        return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


WRITERS: dict[str, Writer] = {
    "openpose": Writer(write_openpose, ".openpose", (write_openpose,)),
    "alphapose": Writer(write_alphapose, ".alphapose.json", (write_alphapose,)),
    "coco": Writer(write_coco, ".coco.json", (write_coco,)),
    "kinetics": Writer(write_kinetics, ".kinetics.json", (write_kinetics,)),
    "pyskl": Writer(write_pyskl, ".pyskl.pkl", (write_pyskl, pyskl_annotation)),
    "mot": Writer(write_mot, ".mot.txt", (write_mot,)),
    "csv": Writer(write_csv, ".csv", (write_csv,)),
    "trc": Writer(write_trc, ".trc", (write_trc,)),
}


def convert(
    path: str | Path, to: str, out: str | Path | None = None, *, overwrite: bool = False, **options: Any
) -> list[Path]:
    """Writes the stream at `path` in format `to` and returns what was written: a file, a folder, or a file a person.

    `out` is `<stem><suffix of the format>` beside the stream unless given. `WRITERS[to].options` are the options.

    Raises:
        ConfigError: an unknown format or option.
        StreamError: the stream cannot be read.
        OutputError: the result is there already and `overwrite` is False, or cannot be written.
    """
    if to not in WRITERS:
        raise ConfigError(f"unknown format {to!r}; {_nearest(to, WRITERS)}")
    writer = WRITERS[to]
    for name in options:
        if name not in writer.options:
            raise ConfigError(f"unknown option {name!r} of format {to!r}; {_nearest(name, writer.options)}")
    reader = StreamReader(path)
    target = Path(path).with_name(stem_of(Path(path)) + writer.suffix) if out is None else Path(out)
    try:
        _check_free(target, overwrite)
        target.parent.mkdir(parents=True, exist_ok=True)
        written = writer.write(reader, target, **options)
    except (OutputError, ConfigError):
        raise
    except OSError as error:
        raise OutputError(
            f"cannot write {target}: {error.strerror or error}; choose another name or free some space"
        ) from error
    return written if written is not None else [target]


def _nearest(name: str, accepted: dict[str, Any]) -> str:
    close = difflib.get_close_matches(name, accepted, 1)
    return (f"did you mean {close[0]!r}? " if close else "") + f"One of {', '.join(accepted)} is accepted"


def _check_free(target: Path, overwrite: bool) -> None:
    files = [target] if target.suffix != ".trc" else target.parent.glob(f"{target.stem}_person*.trc")
    for file in files:
        taken = any(file.iterdir()) if file.is_dir() else file.exists()
        if taken and not overwrite:
            raise OutputError(f"{file} is there already; choose another name, or ask to overwrite")
