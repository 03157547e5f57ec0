"""The command line: parses, calls one command, sets the exit status."""

from __future__ import annotations

import argparse
import contextlib
import difflib
import importlib
import io
import logging
import re
import sys
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any, NoReturn

from sharpose_rt import __version__
from sharpose_rt.commands import guide
from sharpose_rt.commands.printable import PrintableFormatter, printable_lines
from sharpose_rt.errors import (
    SharposeError,
    SourceAway,
    gpu_report,
    is_short_of_gpu_memory,
    is_short_of_memory,
    library_report,
    memory_report,
    system_report,
)
from sharpose_rt.machine import paths
from sharpose_rt.machine.process import ending_by_sigterm, prepare
from sharpose_rt.machine.threads import media_threads

COMMANDS = (
    *("track", "demo", "models", "weights", "explain", "validate", "convert", "collect", "replay", "doctor"),
    *("train", "pretrain", "train-detector", "train-appearance"),
    *("eval", "eval-detector", "eval-track", "eval-appearance", "bench"),
)
# What argparse takes for an option, known or not: no blank in its name, no negative number.
_LIKE_AN_OPTION = re.compile(r"--[^ =]+(=|\Z)|-[^-\d. ][^ ]*\Z")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command. 0: done; 1: found wanting; 2: an error of use or input, or of a GPU; 130: Ctrl-C.

    75: a camera or a stream is not there, and may be later (EX_TEMPFAIL of sysexits.h). SIGTERM exits with 143.
    """
    prepare(media_threads())
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # paths need not be text
    arguments = _joined(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["help"]:
        asked = arguments[1] if arguments[1:] else ""
        if asked in guide.topics():
            return guide.show(asked)
        if asked not in COMMANDS and (close := difflib.get_close_matches(asked, guide.topics(), 1)):
            return _error(
                f"the guide has no page {asked!r}; did you mean {close[0]!r}? One of {', '.join(guide.topics())}"
            )
        arguments = [*arguments[1:], "--help"]
    try:
        parser = build_parser()
        if not arguments:
            parser.print_help()
            return 2
        first = arguments[0]
        if first not in (*COMMANDS, "-h", "--help", "--version"):
            if not first.startswith("-"):
                return _error(_not_a_command(first))
            arguments.insert(0, "track")  # `sharpose-rt --source X` is the main job
        args = parser.parse_args(arguments)
        handler = logging.StreamHandler()  # on standard error
        handler.setFormatter(PrintableFormatter("%(name)s: %(message)s"))
        quiet = getattr(args, "quiet", False)
        logging.basicConfig(level=logging.WARNING if quiet else logging.INFO, handlers=[handler])
        with ending_by_sigterm():
            return args.command.run(args)
    except SharposeError as error:
        for note in getattr(error, "__notes__", ()):
            logging.getLogger("sharpose_rt").debug(note)
        return _error(str(error), 75 if isinstance(error, SourceAway) else 2)
    except (MemoryError, RuntimeError) as error:
        if is_short_of_gpu_memory(error):
            return _error(
                f"{memory_report(error)}; try a smaller batch (--batch N where the command has it, --set batch=N in "
                "train and pretrain), a smaller model, --set data.cache=none where train holds crops on the GPU, or "
                "end other programs that use it"
            )
        if (report := gpu_report(error)) is not None:
            logging.getLogger("sharpose_rt").debug("where it was noticed", exc_info=error)
            return _error(
                f"the GPU failed ({report}); what was written before is kept. Start again, where it fails again with "
                "--device cpu; the system's log (`dmesg`) and `sharpose-rt doctor` may say why"
            )
        if not is_short_of_memory(error):
            raise
        # A thread that finds no memory for its stack is told as one too many.
        lack = ", or room for threads," if re.search("thread|Resource temporarily", str(error)) else ""
        return _error(
            f"this machine has too little memory{lack} left ({memory_report(error)}); --set pose.max_batch=2, "
            "--backend torch, --no-video and smaller pictures take less, or end other programs; a limit of the shell "
            "(ulimit -a) or the container on memory or threads counts as the machine's"
        )
    except ImportError as error:
        if (report := library_report(error)) is None:
            raise
        return _error(report)
    except KeyboardInterrupt:
        print("sharpose-rt: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # as in `sharpose-rt models | head`
        sys.stderr.close()
        return 141
    except OSError as error:
        if (report := system_report(error)) is None:
            raise
        return _error(report)


def _error(message: str, status: int = 2) -> int:
    """Prints what was wrong, and gives the exit status."""
    with contextlib.suppress(OSError):  # a log on a full disk changes no status
        print(f"sharpose-rt: error: {printable_lines(message)}", file=sys.stderr)
    return status


def _joined(arguments: Sequence[str]) -> list[str]:
    """The arguments with '--option -inf' as '--option=-inf': argparse takes -inf for an option, though not -1."""
    joined: list[str] = []
    for argument in arguments:
        if argument == "-inf" and joined and joined[-1].startswith("--"):
            joined[-1] += "=-inf"
        else:
            joined.append(argument)
    return joined


def _not_a_command(word: str) -> str:
    close = difflib.get_close_matches(word, COMMANDS, 1)
    exists = paths.exists(word)
    if word in guide.topics():
        return f"{word!r} is no command; did you mean `sharpose-rt help {word}`?"
    if close and not exists:
        return f"{word!r} is no command; did you mean {close[0]!r}?"
    if exists or "." in word or ":" in word or word == "webcam":
        return f"{word!r} is no command; did you mean `sharpose-rt --source {word}`?"
    return f"{word!r} is no command; one of {', '.join(COMMANDS)} is accepted, or --source X"


class _Parser(argparse.ArgumentParser):
    """Says in one line what is wrong, a misspelt option before all that it makes be missing.

    Options are written out: of `--conf 0.5` nobody knows whether the confidence or the configuration is meant.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, allow_abbrev=False, **options)

    def parse_known_args(  # type: ignore[override]  (one for all of its overloads)
        self, args: Iterable[str] | None = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        """As argparse does; what is not known ends the program here, where the command's own options are."""
        given = list(sys.argv[1:] if args is None else args)
        if not {"-h", "--help"} & set(given):
            self._refuse_unknown(given)
        namespace, rest = super().parse_known_args(given, namespace)
        if rest:
            more = f" and {len(rest) - 3} more" if len(rest) > 3 else ""
            message = f"unrecognized arguments: {' '.join(rest[:3])}{more}"
            if all(map(paths.exists, rest)):
                message += "; they are files: where the shell made them of a glob, quote the glob, as 'pics/*.jpg'"
            self.error(message)
        return namespace, rest

    def error(self, message: str) -> NoReturn:
        """Without the usage: that of `track` has forty lines."""
        self.exit(2, f"{self.prog}: error: {printable_lines(message)}; see `{self.prog} --help`\n")

    def _refuse_unknown(self, given: list[str]) -> None:
        for before, argument in pairwise(["", *given]):
            if argument == "--" or (self._subparsers is not None and not argument.startswith("-")):
                return  # what follows are no options, or those of another parser
            (name, sign, value), options = argument.partition("="), self._option_string_actions
            if not argument and before in options and options[before].nargs != 0:
                self._refuse_empty(before)
            if sign and not value and name in options:
                self._refuse_empty(name)
            known = name in options or name[:2] in options
            if known or not _LIKE_AN_OPTION.match(argument):
                continue
            if close := difflib.get_close_matches(name, options, 1):
                self.error(f"no option {name!r} (did you mean {close[0]!r}?)")
            if before in options and options[before].nargs is None:
                self.error(f"no option {name!r}; a value that begins so is accepted as {before}={argument}")
            self.error(f"no option {name!r}")

    def _refuse_empty(self, name: str) -> None:
        """Most commands would go on as if the option had not been given: not show the run, not write the file."""
        if name != "--source":  # which says what is accepted
            self.error(
                f"argument {name}: '' is given, as by a variable of the shell that is not set; give a value, or "
                f"leave {name} away"
            )


def build_parser() -> argparse.ArgumentParser:
    """The parser with every command."""
    parser = _Parser(
        prog="sharpose-rt",
        description="Real-time multi-person pose tracking: video in, tracked and time-stamped skeletons out.",
        epilog="`sharpose-rt --source X` is short for `sharpose-rt track --source X`; `sharpose-rt help COMMAND` tells "
        f"the options of one, and `sharpose-rt help TOPIC` a page of the guide: {', '.join(guide.topics())}.",
    )
    parser.add_argument("--version", action="version", version=f"sharpose-rt {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name in COMMANDS:
        home = "evaluate" if name == "eval" else name.replace("-", "_")
        module = importlib.import_module(f"sharpose_rt.commands.{home}")
        command = commands.add_parser(name, help=module.HELP, description=module.__doc__)
        module.add_arguments(command)
        command.set_defaults(command=module)
    return parser


if __name__ == "__main__":
    sys.exit(main())
