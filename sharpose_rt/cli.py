"""The command line: parses, calls one command, sets the exit status."""

from __future__ import annotations

import argparse
import importlib
import logging
import sys
from collections.abc import Sequence

from sharpose_rt import __version__
from sharpose_rt.errors import SharposeError
from sharpose_rt.process import prepare

_COMMANDS = (
    "track",
    "demo",
    "models",
    "weights",
    "explain",
    "validate",
    "convert",
    "doctor",
    "train",
    "pretrain",
    "train-detector",
    "eval",
    "eval-detector",
    "eval-track",
    "bench",
)
_MODULES = {
    "eval": "evaluate",
    "eval-detector": "eval_detector",
    "eval-track": "eval_track",
    "train-detector": "train_detector",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command. 0: done; 1: found wanting; 2: an error of use or input; 130: Ctrl-C."""
    prepare()
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = build_parser()
    if arguments and arguments[0] not in _COMMANDS and arguments[0] not in ("-h", "--help", "--version"):
        arguments.insert(0, "track")  # `sharpose-rt --source X` is the main job
    if not arguments:
        parser.print_help()
        return 2
    args = parser.parse_args(arguments)
    logging.basicConfig(
        level=logging.ERROR if getattr(args, "quiet", False) else logging.INFO,
        format="%(name)s: %(message)s",
        stream=sys.stderr,
    )
    try:
        return args.command.run(args)
    except SharposeError as error:
        print(f"sharpose-rt: error: {error}", file=sys.stderr)
        for note in getattr(error, "__notes__", ()):
            logging.getLogger("sharpose_rt").debug(note)
        return 2
    except KeyboardInterrupt:
        print("sharpose-rt: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # as in `sharpose-rt models | head`
        sys.stderr.close()
        return 141


def build_parser() -> argparse.ArgumentParser:
    """The parser with every command."""
    parser = argparse.ArgumentParser(
        prog="sharpose-rt",
        description="Real-time multi-person pose tracking: video in, tracked and time-stamped skeletons out.",
        epilog="`sharpose-rt --source X` is short for `sharpose-rt track --source X`.",
    )
    parser.add_argument("--version", action="version", version=f"sharpose-rt {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name in _COMMANDS:
        module = importlib.import_module(f"sharpose_rt.commands.{_MODULES.get(name, name)}")
        command = commands.add_parser(name, help=module.HELP, description=module.__doc__)
        module.add_arguments(command)
        command.set_defaults(command=module)
    return parser


if __name__ == "__main__":
    sys.exit(main())
