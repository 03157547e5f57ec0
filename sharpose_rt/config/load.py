"""Configurations from YAML files, preset names and `key=value` overrides.

A file changes some fields of `RunConfig`; all others keep their defaults. An unknown key is an error with the file, the
path of the key and the nearest existing name.
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
_NUMBER = re.compile(r"-?inf|[-+]?\d+(\.\d*)?e[-+]?\d+", re.IGNORECASE)  # which YAML 1.1 reads as text: inf, 1e-3
# A number with too many digits for Python, or a date that does not exist, raises ValueError.
_NOT_YAML = (yaml.YAMLError, ValueError, RecursionError)

# The presets are inside the installed package; in a checkout they are next to it.
_PACKAGE = Path(__file__).resolve().parents[1]
_PRESET_ROOTS = (_PACKAGE / "configs", _PACKAGE.parent / "configs")


def preset_root() -> Path:
    """The folder of the presets.

    Raises:
        ConfigError: the installation has none.
    """
    for root in _PRESET_ROOTS:
        if (root / "track").is_dir():
            return root
    raise ConfigError(f"no presets at {_PRESET_ROOTS[0]}; install the package again")


def preset_names(group: str = "track") -> list[str]:
    """Sorted names of the presets of a group, as accepted by `--config`."""
    root = preset_root() / group
    return sorted(path.relative_to(root).with_suffix("").as_posix() for path in root.rglob("*.yaml"))


def find_preset(name: str, group: str = "track") -> Path:
    """The file of a preset's name or a path.

    Raises:
        ConfigError: neither exists; suggests the nearest name.
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
    """Refuses duplicate keys in a mapping: the first of two sections with the same name would be lost silently."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        names: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in names:
                    raise yaml.MarkedYAMLError(
                        problem=f"{shown(key.value)} occurs twice in one section", problem_mark=key.start_mark
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
        raise ConfigError(f"{path} contains a {type(data).__name__}; a mapping of options is accepted")
    return data


def load(
    config: str | Path | None = None,
    overrides: Iterable[str] = (),
    base: RunConfig | None = None,
    options: Mapping[str, Any] | None = None,
) -> RunConfig:
    """The configuration of a run from `base` or defaults, `config` (preset name or path), `key.path=value` overrides,
    and `options` of the command line; later ones win.

    Raises:
        ConfigError: an unknown key (suggests the nearest), or a value of another type or out of range.
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
    except ConfigError:  # one by one, so that errors say where; what is invalid alone may be valid with what follows
        with contextlib.suppress(ConfigError):
            return merge(begin, reduce(_together, (changes for _, changes in steps), {}), "configuration")
        raise


def _together(first: Mapping[str, Any], then: Mapping[str, Any]) -> dict[str, Any]:
    """Both trees in one, with the values of the second if both have one.

    Raises:
        ConfigError: a key is a section in only one of them.
    """
    merged = dict(first)
    for key, value in then.items():
        before = merged.get(key)
        if isinstance(value, Mapping) and isinstance(before, Mapping):
            merged[key] = _together(before, value)
        elif key in merged and isinstance(value, Mapping) != isinstance(before, Mapping):
            raise ConfigError(f"{key} is {shown(before)} and {shown(value)}; one of them is not a section")
        else:
            merged[key] = value
    return merged


def override(item: str, option: str = "--set", example: str = "smooth.method=none") -> dict[str, Any]:
    """The nested mapping for `key.path=value`; the value is YAML.

    Raises:
        ConfigError: it has another form; the message names the `option` and an `example`.
    """
    key, sign, text = item.partition("=")
    if not sign or not key:
        raise ConfigError(f"{option} accepts key=value, such as {option} {example}; got {item!r}")
    try:
        value = yaml.safe_load(text)
    except _NOT_YAML as error:
        raise ConfigError(f"{option} {item!r}: the value is not YAML") from error
    tree: Any = value
    for part in reversed(key.split(".")):
        tree = {part: tree}
    return tree


def merge(config: T, changes: Mapping[str, Any], where: str, path: str = "") -> T:
    """`config` with the fields in `changes` replaced; nested sections are merged.

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
                raise ConfigError(f"{where}: {at} is {shown(value)}; a section of options is accepted")
            values[key] = merge(current, value, where, f"{at}.")
        else:
            values[key] = _coerce(value, hints[key], f"{where}: {at}")
    try:
        return replace(config, **values)  # type: ignore[type-var]
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def to_dict(config: object) -> dict[str, Any]:
    """A configuration as plain nested values, for JSON or YAML."""
    return asdict(config)  # type: ignore[call-overload]


def _coerce(value: Any, hint: Any, at: str) -> Any:
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if isinstance(value, PurePath):  # from a program
        value = str(value)
    elif hasattr(value, "tolist"):  # numbers and arrays of numpy or torch, which are not imported for this
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
                return tuple(value)  # checked by the section that reads it
            if len(kinds) == len(value):
                pairs = enumerate(zip(value, kinds, strict=True))
                return tuple(_coerce(item, kind, f"{at}, item {n}") for n, (item, kind) in pairs)
    wanted = " or ".join("null" if option is type(None) else _said(option) for option in options)
    raise ConfigError(f"{at} is {shown(value)}; {wanted} is accepted")


def _said(kind: Any) -> str:
    """A type in words."""
    return f"a list, {_form(kind)}," if typing.get_origin(kind) is tuple else _form(kind)


def _form(kind: Any) -> str:
    if typing.get_origin(kind) is not tuple:
        return "..." if kind is Ellipsis else getattr(kind, "__name__", str(kind))
    return f"[{', '.join(_form(part) for part in typing.get_args(kind))}]"


def _below(config: Any, key: str, path: str) -> str:
    """A hint if the key exists in a section of `config`."""
    parts = ((item.name, getattr(config, item.name)) for item in fields(config))
    sections = (name for name, part in parts if is_dataclass(part) and key in {item.name for item in fields(part)})
    section = next(sections, None)
    return f" (did you mean {f'{path}{section}.{key}'!r}?)" if section else ""


def _nearest(name: str, names: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(names), n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""
