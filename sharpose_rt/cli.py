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
    """Runs one command. 0: done; 1: a check failed; 2: an error in usage, input or a GPU; 130: Ctrl-C.

    75: a camera or stream is not available, and may be later (EX_TEMPFAIL of sysexits.h). SIGTERM exits with 143.
    """
    prepare(media_threads())
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # paths may not be valid text
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
                "train and pretrain), a smaller model, --set data.cache=none if train keeps crops on the GPU, or "
                "end other programs that use it"
            )
        if (report := gpu_report(error)) is not None:
            logging.getLogger("sharpose_rt").debug("where it was noticed", exc_info=error)
            return _error(
                f"the GPU failed ({report}); everything written before is kept. Start again, and if it fails again, "
                "with --device cpu; the system's log (`dmesg`) and `sharpose-rt doctor` may say why"
            )
        if not is_short_of_memory(error):
            raise
        # A thread without memory for its stack is reported like one thread too many.
        lack = ", or room for threads," if re.search("thread|Resource temporarily", str(error)) else ""
        return _error(
            f"this machine has too little memory{lack} left ({memory_report(error)}); --set pose.max_batch=2, "
            "--backend torch, --no-video and smaller pictures need less, or end other programs; a limit of the shell "
            "(ulimit -a) or container on memory or threads has the same effect"
        )
    except ImportError as error:
        if (report := library_report(error)) is None:
            raise
        return _error(report)
    except KeyboardInterrupt:
        print("sharpose-rt: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # for example `sharpose-rt models | head`
        sys.stderr.close()
        return 141
    except OSError as error:
        if (report := system_report(error)) is None:
            raise
        return _error(report)


def _error(message: str, status: int = 2) -> int:
    """Prints what was wrong, and returns the exit status."""
    with contextlib.suppress(OSError):  # a log on a full disk does not change the status
        print(f"sharpose-rt: error: {printable_lines(message)}", file=sys.stderr)
    return status


def _joined(arguments: Sequence[str]) -> list[str]:
    """The arguments with '--option -inf' as '--option=-inf': argparse would take -inf (but not -1) for an option."""
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
        return f"{word!r} is not a command; did you mean `sharpose-rt help {word}`?"
    if close and not exists:
        return f"{word!r} is not a command; did you mean {close[0]!r}?"
    if exists or "." in word or ":" in word or word == "webcam":
        return f"{word!r} is not a command; did you mean `sharpose-rt --source {word}`?"
    return f"{word!r} is not a command; {', '.join(COMMANDS)} and --source X are accepted"


class _Parser(argparse.ArgumentParser):
    """Says in one line what is wrong; a misspelt option is reported before the options that it leaves missing.

    Options cannot be abbreviated: `--conf 0.5` could mean the confidence or the configuration.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, allow_abbrev=False, **options)

    def parse_known_args(  # type: ignore[override]  (one for all of its overloads)
        self, args: Iterable[str] | None = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        """Like argparse, but unknown options end the program here, where the options of the command are known."""
        given = list(sys.argv[1:] if args is None else args)
        if not {"-h", "--help"} & set(given):
            self._refuse_unknown(given)
        namespace, rest = super().parse_known_args(given, namespace)
        if rest:
            more = f" and {len(rest) - 3} more" if len(rest) > 3 else ""
            message = f"unrecognized arguments: {' '.join(rest[:3])}{more}"
            if all(map(paths.exists, rest)):
                message += "; these are files: if the shell expanded a glob, quote the glob, as in 'pics/*.jpg'"
            self.error(message)
        return namespace, rest

    def error(self, message: str) -> NoReturn:
        """Leaves out the usage, which for `track` has forty lines."""
        self.exit(2, f"{self.prog}: error: {printable_lines(message)}; see `{self.prog} --help`\n")

    def _refuse_unknown(self, given: list[str]) -> None:
        for before, argument in pairwise(["", *given]):
            if argument == "--" or (self._subparsers is not None and not argument.startswith("-")):
                return  # no options follow, or those of another parser
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
                self.error(f"no option {name!r}; to pass a value that begins with a dash, write {before}={argument}")
            self.error(f"no option {name!r}")

    def _refuse_empty(self, name: str) -> None:
        """Refuses an empty value: most commands would act as if the option were missing, and not write the file."""
        if name != "--source":  # its own message says what is accepted
            self.error(
                f"argument {name}: the value is empty, perhaps from a shell variable that is not set; give a value, or "
                f"leave out {name}"
            )


def build_parser() -> argparse.ArgumentParser:
    """The parser with every command."""
    parser = _Parser(
        prog="sharpose-rt",
        description="Real-time multi-person pose tracking: video in, tracked and time-stamped skeletons out.",
        epilog="`sharpose-rt --source X` is short for `sharpose-rt track --source X`; `sharpose-rt help COMMAND` lists "
        f"the options of a command, `sharpose-rt help TOPIC` prints a page of the guide: {', '.join(guide.topics())}.",
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
