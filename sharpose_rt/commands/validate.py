"""`sharpose-rt validate`: says line and field of everything that is wrong with a skeleton stream."""

from __future__ import annotations

import argparse

from sharpose_rt.commands.given import streams
from sharpose_rt.errors import StreamError

HELP = "check a skeleton stream; says line and field of what is wrong"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The files."""
    parser.add_argument(
        "files",
        nargs="+",
        metavar="FILE",
        help="*.skeletons.jsonl files, folders or 'globs' of them, or @LIST (- for standard input)",
    )


def run(args: argparse.Namespace) -> int:
    """0 where every file is right (warnings allowed), else 1. One that is missing does not keep the rest from it."""
    from sharpose_rt.skeletons import format_problems, validate

    wrong, unread = False, []
    for file in streams(args.files):
        try:
            problems = validate(file)
        except StreamError as error:
            unread.append(str(error))
            continue
        wrong |= any(problem.severity == "error" for problem in problems)
        print(format_problems(problems, file) if problems else f"{file}: valid")
    if unread:
        raise StreamError("; ".join(unread))
    return int(wrong)
