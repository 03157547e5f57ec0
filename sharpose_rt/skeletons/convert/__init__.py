"""Conversion of a skeleton stream to the formats of other programs.

openpose    folder with one JSON 1.3 file per frame, person_id filled
alphapose   JSON list of AlphaPose results
coco        JSON list of COCO keypoint results
coco_labels COCO labels of all frames: images, annotations, categories
kinetics    Kinetics-skeleton JSON (ST-GCN)
pyskl       pickle of PYSKL and MMAction2
mot         MOTChallenge text
csv         one row for each person in each frame
parquet     the same table, typed and compressed (needs pyarrow)
trc         OpenSim markers, one file per person
deeplabcut  a table of several individuals, one row per frame
"""

from __future__ import annotations

import difflib
import importlib.util
import inspect
import logging
import math
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from sharpose_rt.config.checks import MOST_SLOTS
from sharpose_rt.config.load import override
from sharpose_rt.errors import ConfigError, OutputError, writing
from sharpose_rt.machine.whole_files import write_whole
from sharpose_rt.skeletons.convert.alphapose import write_alphapose
from sharpose_rt.skeletons.convert.clip_labels import labels_by_folder, numbered, read_classes, read_labels
from sharpose_rt.skeletons.convert.coco import write_coco, write_coco_labels
from sharpose_rt.skeletons.convert.common import stem_of
from sharpose_rt.skeletons.convert.deeplabcut import write_deeplabcut
from sharpose_rt.skeletons.convert.kinetics import write_kinetics
from sharpose_rt.skeletons.convert.openpose import write_openpose
from sharpose_rt.skeletons.convert.parquet import write_parquet
from sharpose_rt.skeletons.convert.pyskl import pyskl_annotation, write_pyskl, write_pyskl_set
from sharpose_rt.skeletons.convert.tables import write_csv, write_mot
from sharpose_rt.skeletons.convert.trc import write_trc
from sharpose_rt.skeletons.names import check_target, is_folder, named, target_of
from sharpose_rt.skeletons.stream import StreamReader

log = logging.getLogger("sharpose_rt.skeletons")

__all__ = [
    "WRITERS",
    "Writer",
    "check_format",
    "check_formats",
    "convert",
    "convert_all",
    "convert_set",
    "options_of",
    "pyskl_annotation",
]


FOLDERS = "folders"
"""Given instead of a file of labels."""
_ELSEWHERE = "choose another name or free some space"


class Writer(NamedTuple):
    """A format: `write(reader, out, **options)`, the suffix of its files, and the functions that define its options."""

    write: Callable[..., Any]
    suffix: str
    options_of: tuple[Callable[..., Any], ...]
    needs: str = ""
    """A package that the extra with the name of the format installs."""

    @property
    def options(self) -> dict[str, Any]:
        """Options by name, with their defaults."""
        parameters = [p for f in self.options_of for p in inspect.signature(f).parameters.values()]
        return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}

    @property
    def types(self) -> dict[str, Any]:
        """The annotations of all arguments by name."""
        return {name: hint for f in self.options_of for name, hint in typing.get_type_hints(f).items()}


WRITERS: dict[str, Writer] = {
    "openpose": Writer(write_openpose, ".openpose", (write_openpose,)),
    "alphapose": Writer(write_alphapose, ".alphapose.json", (write_alphapose,)),
    "coco": Writer(write_coco, ".coco.json", (write_coco,)),
    "coco_labels": Writer(write_coco_labels, ".coco_labels.json", (write_coco_labels,)),
    "kinetics": Writer(write_kinetics, ".kinetics.json", (write_kinetics,)),
    "pyskl": Writer(write_pyskl, ".pyskl.pkl", (write_pyskl, pyskl_annotation)),
    "mot": Writer(write_mot, ".mot.txt", (write_mot,)),
    "csv": Writer(write_csv, ".csv", (write_csv,)),
    "parquet": Writer(write_parquet, ".parquet", (write_parquet,), needs="pyarrow"),
    "trc": Writer(write_trc, ".trc", (write_trc,)),
    "deeplabcut": Writer(write_deeplabcut, ".dlc.csv", (write_deeplabcut,)),
}


def convert(
    path: str | Path, to: str, out: str | Path | None = None, *, overwrite: bool = False, **options: Any
) -> list[Path]:
    """Writes the stream at `path` in format `to` and returns what was written: a file, a folder, or a file per person.

    The default of `out` is `<stem><suffix of the format>` next to the stream; if it is a folder, the result is written
    there under this name, except for 'openpose', whose result is the folder itself. `WRITERS[to].options` are the
    options.

    Raises:
        ConfigError: an unknown format or option, a value of the wrong type, or a package that is not installed.
        StreamError: the stream cannot be read.
        OutputError: the result exists and `overwrite` is False, or cannot be written.
    """
    reader, written = _convert(path, to, out, overwrite, options)
    reader.warn_unless_complete()
    return written


def _convert(
    path: str | Path, to: str, out: str | Path | None, overwrite: bool, options: Mapping[str, Any]
) -> tuple[StreamReader, list[Path]]:
    writer = check_format(to, options)
    if out is None and str(path) == "-":
        raise ConfigError("the result needs a name, as standard input has none; give one (--out)")
    reader = StreamReader(path)
    name = stem_of(named(reader.path)) + writer.suffix
    target = named(out) if to == "openpose" and out is not None else target_of(path, name, out)
    if to == "trc" and target.suffix != ".trc":
        target = target.with_name(f"{target.name}.trc")  # one file per person, with this suffix
    with writing(target, _ELSEWHERE):
        old = check_target(target, [Path(path)], overwrite)
        target.parent.mkdir(parents=True, exist_ok=True)
        several = writer.write(reader, target, **_read(writer, options))
        written = [target] if several is None else several
        for file in set(old) - set(written):  # people of an earlier result who are not in this one
            file.unlink()
    return reader, written


def convert_set(
    paths: Iterable[str | Path],
    out: str | Path,
    labels: str | Path | None = None,
    *,
    classes: str | Path | None = None,
    overwrite: bool = False,
    **options: Any,
) -> Path:
    """Writes the streams at `paths` as one dataset for action recognition, the pickle of PYSKL and MMAction2, to `out`.

    `labels` is a file of name,label[,split] for each clip (see `clip_labels.read_labels`), or 'folders': the folders of
    the videos are their classes. Class names are numbered in the order of `classes`, a file with one per line, or
    alphabetically: then `<out's stem>.classes.txt` next to the dataset lists them. Options are those of 'pyskl'.

    Raises:
        ConfigError: labels, classes or names of clips do not match, an unknown option, or `out` is a folder.
        StreamError: a stream cannot be read.
        OutputError: the result exists and `overwrite` is False, or cannot be written.
    """
    check_format("pyskl", options)
    if classes is not None and labels is None:
        raise ConfigError("classes need labels; give the labels too")
    by_folder = str(labels) == FOLDERS
    given = None if labels is None or by_folder else read_labels(Path(labels))
    known = None if classes is None else read_classes(Path(classes))
    if is_folder(out):
        raise ConfigError(f"{out} is a folder, and a dataset of several clips needs a name; give one (--out FILE)")
    target, paths = named(out), [Path(path) for path in paths]
    listed = target.with_name(f"{target.stem}.classes.txt")
    read = [*paths, *(Path(file) for file in (labels, classes) if file is not None)]
    with writing(target, _ELSEWHERE):
        check_target(target, read, overwrite)
        target.parent.mkdir(parents=True, exist_ok=True)
        readers = [StreamReader(path) for path in paths]
        if by_folder:
            given = labels_by_folder(readers)
        names: Sequence[str] = ()
        if given is not None:
            given, names = numbered(given, known)
        new = names and known is None
        if new:
            check_target(listed, read, overwrite)
        write_pyskl_set(readers, target, given, **_read(WRITERS["pyskl"], options))
        if new:
            write_whole(listed, "".join(f"{name}\n" for name in names))
            more = ", ..." if len(names) > 20 else ""
            log.info("%d classes, their numbers by %s: %s%s", len(names), listed, ", ".join(names[:20]), more)
    for reader in readers:
        reader.warn_unless_complete()
    return target


def convert_all(path: Path, formats: Iterable[str], *, overwrite: bool = False, **options: Any) -> list[Path]:
    """Writes the stream at `path` in each format, with those of `options` that the format has.

    If one cannot be written, the others still are. There is no warning about an incomplete stream: the run reports
    that.

    Raises:
        ConfigError, StreamError, OutputError: see `convert`.
    """
    written: list[Path] = []
    failed: list[Exception] = []
    for to in dict.fromkeys(formats):
        try:
            written += _convert(path, to, None, overwrite, _taken_by(to, options))[1]
        except Exception as error:
            failed.append(error)
    for error in failed:
        if not isinstance(error, OutputError | ConfigError):  # ConfigError: no track ids, which some formats need
            raise error
    if failed:
        raise OutputError("; ".join(map(str, failed)))
    return written


class Written(NamedTuple):
    """An option as given; each format reads it by its type: a text as it is, everything else as YAML."""

    text: str
    value: Any

    def read(self, hint: Any) -> Any:
        """The value of the option for this type."""
        return self.text if hint is str else self.value


def options_of(items: Iterable[str]) -> dict[str, Any]:
    """Options by name from 'KEY=VALUE' each, for `convert`, `convert_all` and `check_formats`.

    Raises:
        ConfigError: one has another form.
    """
    options: dict[str, Any] = {}
    for item in items:
        name, sign, text = item.partition("=")
        try:
            value = override(item, "--option", "min_score=0.3").get(name)
        except ConfigError:
            if not sign or not name:
                raise
            value = text  # a text need not be valid YAML
        options[name] = Written(text, value)
    return options


def _read(writer: Writer, options: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value.read(writer.types.get(name)) if isinstance(value, Written) else value
        for name, value in options.items()
    }


def check_formats(formats: Iterable[str], options: Mapping[str, Any]) -> None:
    """Checks that all `formats` can be written, and that each of `options` belongs to at least one of them.

    Raises:
        ConfigError: otherwise.
    """
    formats = list(formats)
    for to in formats:
        check_format(to, _taken_by(to, options))
    for name in options:
        if not any(name in WRITERS[to].options for to in formats):
            known = {known: None for to in formats for known in WRITERS[to].options}
            raise _unknown(name, " or ".join(formats), known)


def _taken_by(to: str, options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name in check_format(to, {}).options}


def check_format(to: str, options: Mapping[str, Any]) -> Writer:
    """The writer of format `to`, after checking `options`.

    Raises:
        ConfigError: there is none, a package is missing, or one of `options` is unknown or invalid.
    """
    if to not in WRITERS:
        raise ConfigError(f"unknown format {to!r}; {_nearest(to, WRITERS)}")
    writer = WRITERS[to]
    if writer.needs and importlib.util.find_spec(writer.needs) is None:
        raise ConfigError(f"{to} needs {writer.needs}: pip install 'sharpose-rt[{to}]'")
    for name, value in _read(writer, options).items():
        if name not in writer.options:
            raise _unknown(name, repr(to), writer.options)
        _check_value(f"option {name!r} of format {to!r}", value, writer.types[name])
        if value is None or name not in _RANGES:
            continue
        low, high = _RANGES[name]
        if not low <= value <= high:
            wanted = (
                f"{low:g} to {high:g}" if high < math.inf else "a number above 0" if low < 1 else f"{low:g} or more"
            )
            raise ConfigError(f"option {name!r} of format {to!r} is {value!r}; {wanted} is accepted")
    return writer


def _unknown(name: str, of: str, known: dict[str, Any]) -> ConfigError:
    takers = [to for to, writer in WRITERS.items() if name in writer.options]
    elsewhere = f" ({name!r} is an option of {', '.join(takers)})" if takers else ""
    return ConfigError(f"unknown option {name!r} of format {of}; {_nearest(name, known)}{elsewhere}")


_PYTHON = {bool: bool, int: int, float: (int, float), str: str}
_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
_ABOVE_0 = (math.ulp(0.0), math.inf)
_RANGES = {
    "min_score": (0, 1),
    "max_frames": (1, math.inf),
    "person_slots": (1, MOST_SLOTS),
    "px_per_m": _ABOVE_0,
    "max_gap_s": _ABOVE_0,
    "fps": (math.ulp(0.0), 1000),
}


def _check_value(what: str, value: Any, hint: Any) -> None:
    """Raises ConfigError if the value does not have the annotated type."""
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    words: list[str] = []
    for kind in kinds:
        if typing.get_origin(kind) is Literal:
            if value in typing.get_args(kind):
                return
            words.append(f"one of {', '.join(typing.get_args(kind))}")
        elif kind is type(None):
            if value is None:
                return
        elif isinstance(value, _PYTHON[kind]) and (kind is bool or not isinstance(value, bool)):
            return
        else:
            words.append(_WORDS[kind])
    raise ConfigError(f"{what} is {value!r}; {' or '.join(words)} is accepted")


def _nearest(name: str, accepted: dict[str, Any]) -> str:
    close = difflib.get_close_matches(name, accepted, 1)
    known = f"One of {', '.join(accepted)} is accepted"
    return (f"did you mean {close[0]!r}? " if close else "") + known
