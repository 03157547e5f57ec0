"""Addresses: their parts, and whether what lies there is stored or goes on, whole or in pieces."""

from __future__ import annotations

import base64
import http.client
import urllib.request
from functools import lru_cache
from pathlib import PurePosixPath
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit

from sharpose_rt.errors import SourceError
from sharpose_rt.media import certificates
from sharpose_rt.media.redact import redact

LONGEST_WAIT_S = 3.0
LISTS = (".m3u8", ".m3u")
"""Endings of lists of a stream's pieces (HLS)."""


def split_address(spec: str) -> SplitResult:
    """The parts of an address.

    Raises:
        SourceError: it cannot be taken apart, as where a bracket is not closed.
    """
    try:
        return urlsplit(spec)
    except ValueError:  # whose text may have the password in it
        raise SourceError(
            f"{redact(spec)} is no address; SCHEME://HOST:PORT/PATH is accepted, with an IPv6 HOST in brackets, as "
            "in [::1]"
        ) from None


def in_pieces(spec: str) -> bool:
    """Whether the address is that of a list of pieces (HLS), by its ending."""
    return PurePosixPath(split_address(spec).path).suffix.lower() in LISTS


@lru_cache(maxsize=64)
def is_stored(url: str, timeout_s: float = LONGEST_WAIT_S, tls: str = "verify") -> bool:
    """Whether the server says how long the content is (to a HEAD request, which transfers nothing of it).

    False where it gives no length, refuses the question (as small cameras do), does not answer in time, or is not
    trusted (`source.tls`): what is then opened as a stream loses frames where reading is slow, but waits for nobody.
    Asked once for each address.

    Raises:
        SourceError: it is no address, or `tls` no file of certificates.
    """
    parts = split_address(url)
    host = parts.netloc.rpartition("@")[2]
    request = urllib.request.Request(urlunsplit(parts._replace(netloc=host, fragment="")), method="HEAD")
    if parts.username is not None:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        request.add_unredirected_header("Authorization", "Basic " + base64.b64encode(pair.encode()).decode())
    context = certificates.context(tls) if parts.scheme == "https" else None
    try:
        with urllib.request.urlopen(request, timeout=min(timeout_s, LONGEST_WAIT_S), context=context) as answer:
            length, kind = answer.headers.get("Content-Length", ""), answer.headers.get_content_maintype()
    except (OSError, ValueError, http.client.HTTPException):
        return False
    return length.isdigit() and int(length) > 0 and kind != "multipart"
