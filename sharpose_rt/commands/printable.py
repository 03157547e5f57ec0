"""Text from files and other programs, made safe for the terminal."""

from __future__ import annotations

import logging
import re

# Unicode's category Cc, and the characters that change the writing direction.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """The text with its control characters escaped, so that no file name or metadata can control the terminal."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def printable_lines(text: str) -> str:
    """The text with its control characters escaped, except line ends."""
    return "\n".join(map(printable, text.split("\n")))


class PrintableFormatter(logging.Formatter):
    """Formats log messages with `printable_lines`."""

    def format(self, record: logging.LogRecord) -> str:
        """The record's text."""
        return printable_lines(super().format(record))
