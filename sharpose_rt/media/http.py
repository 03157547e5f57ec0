"""Parses addresses, and tells stored files from live streams, whole or in segments."""

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
"""Suffixes of playlists of a stream's segments (HLS)."""


def split_address(spec: str) -> SplitResult:
    """The parts of an address.

    Raises:
        SourceError: it cannot be parsed, for example because of an unclosed bracket.
    """
    try:
        return urlsplit(spec)
    except ValueError:  # its text may contain the password
        raise SourceError(
            f"{redact(spec)} is not an address; SCHEME://HOST:PORT/PATH is accepted, with an IPv6 HOST in brackets, "
            "such as [::1]"
        ) from None


def in_pieces(spec: str) -> bool:
    """Whether the address is that of a playlist of segments (HLS), by its suffix."""
    return PurePosixPath(split_address(spec).path).suffix.lower() in LISTS


@lru_cache(maxsize=64)
def is_stored(url: str, timeout_s: float = LONGEST_WAIT_S, tls: str = "verify") -> bool:
    """Whether the server states the length of the content, in reply to a HEAD request, which transfers none of it.

    False if it gives no length, refuses the request (as small cameras do), does not answer in time, or is not trusted
    (`source.tls`): the address is then opened as a stream, which loses frames if reading is slow but never waits.
    Each address is asked only once.

    Raises:
        SourceError: it is not an address, or `tls` is not a file of certificates.
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
