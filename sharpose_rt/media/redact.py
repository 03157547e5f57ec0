"""Stream addresses without their secrets."""

from __future__ import annotations

import re

# With a password every '@' that follows is taken for its end: passwords may have '/', '?', '#' or a blank in them, and
# one of digits alone looks like a port. It ends before a next address, which begins after a blank.
# Who forgets one of the slashes has written the password all the same; one letter before a slash is a drive.
_USERINFO = re.compile(r"(?:(?<=://)|(?<=[\w+.-]{2}:/))(?:[^/?#\s]*?:(?:(?!\s\S*://).)*|[^/?#\s]*)@")
_SECRET = re.compile(
    r"([?&;#](?:[\w-]*(?:token|passw(?:or)?d|passphrase|pass?|pwd|ps?w|secret|signature|key|auth|credentials?"
    r"|authorization|bearer|jwt|sess(?:ion)?(?:_?id)?)|(?:\w*_|access|auth|pass)?code"
    r"|user(?:name)?|usr|loginuse|sig|streamid|sid|hdn\w+|pin|otp|sas)=)[^&#\s]+",
    re.IGNORECASE,
)
# Recorders of XMEye take both in the path, as in /user=NAME_password=SECRET_channel=1_stream=0.sdp.
_IN_PATH = re.compile(r"(/(?:user(?:name)?|password)=)[^&\s]*?(?=_channel=|[&\s]|$)", re.IGNORECASE)


def redact(text: str) -> str:
    """The text with user names, passwords and keys of every URL in it replaced by '***', rather too much than less."""
    return _IN_PATH.sub(r"\1***", _SECRET.sub(r"\1***", _USERINFO.sub("***@", text)))
