"""Configurations from YAML files, preset names and `key=value` overrides.

A file changes a few fields of `RunConfig`; whatever it does not name keeps its default. An unknown key fails with
the file, the key's path and the nearest name that exists.
"""

from __future__ import annotations

import contextlib
import difflib
import re
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields, is_dataclass, replace
from functools import reduce
from pathlib import Path, PurePath
from typing import Any, TypeVar

import yaml

from sharpose_rt.config.schema import RunConfig
from sharpose_rt.errors import ConfigError, shown

T = TypeVar("T")
_NUMBER = re.compile(r"-?inf|[-+]?\d+(\.\d*)?e[-+]?\d+", re.IGNORECASE)  # as YAML 1.1 takes for text: inf, 1e-3
# A number of more digits than Python takes and a day that is in no calendar are ValueErrors.
_NOT_YAML = (yaml.YAMLError, ValueError, RecursionError)

# Installed, the presets lie inside the package; in a checkout, beside it.
_PACKAGE = Path(__file__).resolve().parents[1]
_PRESET_ROOTS = (_PACKAGE / "configs", _PACKAGE.parent / "configs")


def preset_root() -> Path:
    """The folder that holds the presets.

    Raises:
        ConfigError: the installation has none.
    """
    for root in _PRESET_ROOTS:
        if (root / "track").is_dir():
            return root
    raise ConfigError(f"no presets at {_PRESET_ROOTS[0]}; install the package again")


def preset_names(group: str = "track") -> list[str]:
    """Names of the presets of a group, as `--config` takes them, sorted."""
    root = preset_root() / group
    return sorted(path.relative_to(root).with_suffix("").as_posix() for path in root.rglob("*.yaml"))


def find_preset(name: str, group: str = "track") -> Path:
    """The file behind a preset's name or a path.

    Raises:
        ConfigError: neither exists; offers the nearest name.
    """
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        if path.is_file():
            return path
        raise ConfigError(f"no configuration file at {name!r}; see what `ls {path.parent}` has")
    names = preset_names(group)
    if name in names:
        return preset_root() / group / f"{name}.yaml"
    raise ConfigError(f"no configuration {name!r}{_nearest(name, names)}; presets: {', '.join(names)}, or a .yaml file")


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice in a mapping: of two sections of one name the first would be lost unsaid."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        names: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in names:
                    raise yaml.MarkedYAMLError(
                        problem=f"{shown(key.value)} stands twice in one section", problem_mark=key.start_mark
                    )
                names.add(key.value)
        return node


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        ConfigError: it cannot be read, is not YAML, or is not a mapping.
    """
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from error
    except _NOT_YAML as error:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigError(f"{path} holds a {type(data).__name__}; a mapping of options is wanted")
    return data


def load(
    config: str | Path | None = None,
    overrides: Iterable[str] = (),
    base: RunConfig | None = None,
    options: Mapping[str, Any] | None = None,
) -> RunConfig:
    """The run's configuration: `base` or defaults, `config` (preset name or path), `key.path=value` overrides, and
    `options` of the command line; later ones win.

    Raises:
        ConfigError: an unknown key (the nearest is offered), a value of another type or out of range.
    """
    steps: list[tuple[str, Mapping[str, Any]]] = []
    if config is not None:
        path = find_preset(str(config))
        steps.append((str(path), read_yaml(path)))
    steps += [("--set", override(item)) for item in overrides]
    steps.append(("command line", options or {}))
    begin = base or RunConfig()
    try:
        result = begin
        for where, changes in steps:
            result = merge(result, changes, where)
        return result
    except ConfigError:  # one by one, as errors say where; what does not hold alone may hold with what follows
        with contextlib.suppress(ConfigError):
            return merge(begin, reduce(_together, (changes for _, changes in steps), {}), "configuration")
        raise


def _together(first: Mapping[str, Any], then: Mapping[str, Any]) -> dict[str, Any]:
    """Both trees in one, the second one's values where both have one.

    Raises:
        ConfigError: what is a section in one of them is none in the other; what follows does not make that good.
    """
    merged = dict(first)
    for key, value in then.items():
        before = merged.get(key)
        if isinstance(value, Mapping) and isinstance(before, Mapping):
            merged[key] = _together(before, value)
        elif key in merged and isinstance(value, Mapping) != isinstance(before, Mapping):
            raise ConfigError(f"{key} is {shown(before)} and {shown(value)}; one of them is no section")
        else:
            merged[key] = value
    return merged


def override(item: str, option: str = "--set", example: str = "smooth.method=none") -> dict[str, Any]:
    """The nested mapping that `key.path=value` says; the value is YAML.

    Raises:
        ConfigError: it is of another form; `option` is what it was given by, `example` what is accepted.
    """
    key, sign, text = item.partition("=")
    if not sign or not key:
        raise ConfigError(f"{option} takes key=value, as in {option} {example}; got {item!r}")
    try:
        value = yaml.safe_load(text)
    except _NOT_YAML as error:
        raise ConfigError(f"{option} {item!r}: the value is not YAML") from error
    tree: Any = value
    for part in reversed(key.split(".")):
        tree = {part: tree}
    return tree


def merge(config: T, changes: Mapping[str, Any], where: str, path: str = "") -> T:
    """`config` with the fields that `changes` names replaced; nested sections are merged.

    Raises:
        ConfigError: see `load`.
    """
    hints = typing.get_type_hints(type(config))
    names = [item.name for item in fields(config)]  # type: ignore[arg-type]
    values = {}
    for key, value in changes.items():
        at = f"{path}{key}"
        if key not in names:
            hint = _below(config, str(key), path) or _nearest(str(key), names)
            raise ConfigError(f"{where}: unknown key {at!r}{hint}; keys here: {', '.join(names)}")
        current = getattr(config, key)
        if is_dataclass(current):
            if not isinstance(value, Mapping):
                raise ConfigError(f"{where}: {at} is {shown(value)}; a section of options is wanted")
            values[key] = merge(current, value, where, f"{at}.")
        else:
            values[key] = _coerce(value, hints[key], f"{where}: {at}")
    try:
        return replace(config, **values)  # type: ignore[type-var]
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def to_dict(config: object) -> dict[str, Any]:
    """A configuration as plain nested values, ready for JSON or YAML."""
    return asdict(config)  # type: ignore[call-overload]


def _coerce(value: Any, hint: Any, at: str) -> Any:
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if isinstance(value, PurePath):  # a program's
        value = str(value)
    elif hasattr(value, "tolist"):  # its numbers and arrays, of numpy or torch, which --help does not wait for
        value = value.tolist()
    if isinstance(value, int) and value.bit_length() > 63:
        raise ConfigError(f"{at} is a number of {value.bit_length()} bits; numbers within ±9.2e18 are accepted")
    if value is None and type(None) in options:
        return None
    for option in options:
        if option is float and isinstance(value, (int, float)) and not isinstance(value, bool):
            return float(value)
        if option is float and isinstance(value, str) and _NUMBER.fullmatch(value):
            return float(value)
        if option is int and isinstance(value, int) and not isinstance(value, bool):
            return value
        if option in (bool, str) and isinstance(value, option):
            return value
        if typing.get_origin(option) is tuple and isinstance(value, (list, tuple)):
            kinds = typing.get_args(option)
            kinds = len(value) * kinds[:1] if kinds[1:] == (Ellipsis,) else kinds
            if not {bool, int, float, str}.issuperset(kinds):
                return tuple(value)  # what reads it, checks it
            if len(kinds) == len(value):
                pairs = enumerate(zip(value, kinds, strict=True))
                return tuple(_coerce(item, kind, f"{at}, item {n}") for n, (item, kind) in pairs)
    wanted = " or ".join("null" if option is type(None) else _said(option) for option in options)
    raise ConfigError(f"{at} is {shown(value)}; {wanted} is accepted")


def _said(kind: Any) -> str:
    """How a type is asked for."""
    return f"a list, {_form(kind)}," if typing.get_origin(kind) is tuple else _form(kind)


def _form(kind: Any) -> str:
    if typing.get_origin(kind) is not tuple:
        return "..." if kind is Ellipsis else getattr(kind, "__name__", str(kind))
    return f"[{', '.join(_form(part) for part in typing.get_args(kind))}]"


def _below(config: Any, key: str, path: str) -> str:
    """In which section of `config` the key is."""
    parts = ((item.name, getattr(config, item.name)) for item in fields(config))
    sections = (name for name, part in parts if is_dataclass(part) and key in {item.name for item in fields(part)})
    section = next(sections, None)
    return f" (did you mean {f'{path}{section}.{key}'!r}?)" if section else ""


def _nearest(name: str, names: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(names), n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""
