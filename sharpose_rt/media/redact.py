"""Stream addresses without their secrets."""

from __future__ import annotations

import re

_USERINFO = re.compile(r"(?<=://)[^/?#\s]*@")
_SECRET = re.compile(
    r"([?&](?:[\w-]*(?:token|passw(?:or)?d|passphrase|pwd|secret|signature|key|auth)|user(?:name)?|sig|streamid)=)[^&#\s]+",
    re.IGNORECASE,
)


def redact(text: str) -> str:
    """The text with user names, passwords and keys of every URL in it replaced by '***'."""
    return _SECRET.sub(r"\1***", _USERINFO.sub("***@", text))
