"""Versions of other packages, which decide whether cached measurements and conversions are still valid."""

from __future__ import annotations

import sys
from importlib import metadata


def version(name: str) -> str | None:
    """A package's version, without importing it. If pip does not know the package, as one from a vendor's archive or in
    a single-file program, its own `__version__` if it is loaded, else None."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return getattr(sys.modules.get(name), "__version__", None)
