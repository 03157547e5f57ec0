"""Text of others on the terminal."""

from __future__ import annotations

import logging
import re

# Unicode's category Cc, and what turns the direction of writing.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """The text with its control characters escaped, so that no file's name or metadata steers the terminal."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def printable_lines(text: str) -> str:
    """The text with its control characters escaped but for the ends of its lines."""
    return "\n".join(map(printable, text.split("\n")))


class PrintableFormatter(logging.Formatter):
    """Messages of the log as `printable_lines`."""

    def format(self, record: logging.LogRecord) -> str:
        """The record's text."""
        return printable_lines(super().format(record))
