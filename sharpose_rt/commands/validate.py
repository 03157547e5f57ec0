"""`sharpose-rt validate`: report the line and field of everything that is wrong with a skeleton stream."""

from __future__ import annotations

import argparse

from sharpose_rt.commands.given import streams
from sharpose_rt.errors import StreamError

HELP = "check a skeleton stream; reports the line and field of each error"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `sharpose-rt validate`."""
    parser.add_argument(
        "files",
        nargs="+",
        metavar="FILE",
        help="*.skeletons.jsonl files, folders or 'globs' of them, or @LIST (- for standard input)",
    )


def run(args: argparse.Namespace) -> int:
    """Returns 0 if every file is valid (warnings are allowed), else 1; files that cannot be read are reported last."""
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
