"""Expands the arguments of a command line: lists, folders and globs of files, and where the results of each go."""

from __future__ import annotations

import argparse
import glob
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from sharpose_rt.commands.printable import printable_lines
from sharpose_rt.errors import ConfigError, StreamError
from sharpose_rt.machine.natural import natural
from sharpose_rt.machine.paths import expanded, matching

log = logging.getLogger("sharpose_rt")

_STREAMS = "*.skeletons.jsonl"


def listed(given: Sequence[str], what: str = "sources") -> list[str]:
    """What is given, with each '@FILE' replaced by its lines; empty ones, and those that begin with '#', are left out.

    Raises:
        ConfigError: a list cannot be read, or is empty.
    """
    one, found = what.removesuffix("s"), list[str]()
    for name in given:
        if not name.startswith("@"):
            found.append(name)
            continue
        try:
            lines = Path(name[1:]).read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            why = getattr(error, "strerror", None) or error
            raise ConfigError(
                f"cannot read the list of {what} {name[1:]}: {why}; @FILE is a text file with one {one} per line"
            ) from error
        inside = [line.strip() for line in lines if line.strip() and not line.strip().startswith("#")]
        if not inside:
            raise ConfigError(f"the list of {what} {name[1:]} is empty; it needs one {one} per line")
        found += inside
    return found


def streams(given: Sequence[str]) -> list[str]:
    """The skeleton streams: for a folder all in it and below, for a glob its matches (if no shell has expanded it), for
    '@FILE' its lines; files and '-' as they are.

    Raises:
        ConfigError: a list cannot be read, or is empty.
        StreamError: a folder or glob contains none.
    """
    found: list[str] = []
    for name in listed(given, "streams"):
        path = expanded(name)
        if path.is_dir():
            inside = path.rglob(_STREAMS)
        elif glob.has_magic(name) and not path.exists():
            inside = matching(path)
        else:
            found.append(name)
            continue
        kept = [one for one in inside if not one.name.startswith(".") and one.is_file()]
        if not kept:
            raise StreamError(
                f"{name} has no {_STREAMS}; a stream, a folder or 'glob' of streams, or @LIST of them is accepted"
            )
        found += map(str, sorted(kept, key=lambda one: [natural(part) for part in one.parts]))
    return found


def below_common(found: Sequence[tuple[str, Path]]) -> list[tuple[str, Path]]:
    """Names and their folders, with the folders relative to the one that contains all of them."""
    folders = [folder for _, folder in found if folder != Path()]
    try:
        common = Path(os.path.commonpath(folders))
    except ValueError:  # none, or on several drives
        return [(name, Path()) for name, _ in found]
    return [(name, folder.relative_to(common) if folder != Path() else folder) for name, folder in found]


def folder_of(spec: str) -> Path:
    """The folder of a file, without any '..', which would lead out of the folder for results."""
    return Path(os.path.abspath(spec)).parent  # noqa: PTH100 (Path.absolute keeps them)


def streams_below(names: Sequence[str]) -> list[tuple[str, Path]]:
    """Streams, each with its folder relative to the one that contains all of them."""
    return below_common([(name, Path() if name == "-" else folder_of(name)) for name in names])


def named(what: str, specs: Sequence[str]) -> str:
    """'; 2 failed: a, b', with the first few names; empty if there are none."""
    more = ", ..." if len(specs) > 20 else ""
    return f"; {len(specs)} {what}: {', '.join(specs[:20])}{more}" if specs else ""


def say(args: argparse.Namespace, text: str) -> None:
    """Prints it, on standard error if a stream is published on standard output; a failure (full disk) is logged."""
    try:
        print(printable_lines(text), file=sys.stderr if "-" in args.publish else sys.stdout, flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        log.warning("cannot print the results (%s)", error.strerror)
