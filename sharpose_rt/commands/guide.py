"""Prints a page of the guide that comes with the package."""

from __future__ import annotations

import sys
from pathlib import Path

PAGES = Path(__file__).resolve().parents[1] / "guide"


def topics() -> list[str]:
    """Names of the pages."""
    return sorted(page.stem for page in PAGES.glob("*.md"))


def show(topic: str) -> int:
    """Prints a page: formatted for a terminal, as Markdown into a pipe."""
    text = (PAGES / f"{topic}.md").read_text(encoding="utf-8")
    if not sys.stdout.isatty():
        print(text, end="")
        return 0
    from rich.console import Console
    from rich.markdown import Markdown

    Console(width=min(100, Console().width)).print(Markdown(text, hyperlinks=False))
    return 0
