"""Versions of other packages, which decide whether what was measured or made with them still holds."""

from __future__ import annotations

import sys
from importlib import metadata


def version(name: str) -> str | None:
    """A package's version, without importing it. Of one that pip knows nothing of, as out of a vendor's archive or in a
    program of one file, what it says itself where it is loaded; else None."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return getattr(sys.modules.get(name), "__version__", None)
