"""Stream addresses without their secrets."""

from __future__ import annotations

import re

# With a password every '@' that follows is taken for its end: passwords may have '/', '?', '#' or a blank in them, and
# one of digits alone looks like a port. It ends before a next address, which begins after a blank.
# Who forgets one of the slashes has written the password all the same; one letter before a slash is a drive.
_USERINFO = re.compile(r"(?:(?<=://)|(?<=[\w+.-]{2}:/))(?:[^/?#\s]*?:(?:(?!\s\S*://).)*|[^/?#\s]*)@")
_SECRET = re.compile(
    r"([?&;#](?:[\w-]*(?:token|passw(?:or)?d|passphrase|pass?|pwd|ps?w|secret|signature|key|auth|credentials?|policy"
    r"|key-pair-id|authorization|authbasic|bearer|jwt|sess(?:ion)?(?:_?id)?|\w*hash|hmac|md5|\w*sign|ticket)|(?:\w*_|access|auth|pass)?code"
    r"|user(?:name)?|usr|loginuse|sig|streamid|sid|hdn\w+|pin|otp|sas)=)[^&#\s]+",
    re.IGNORECASE,
)
# Recorders of XMEye take both in the path, as in /user=NAME_password=SECRET_channel=1_stream=0.sdp.
_IN_PATH = re.compile(r"(/(?:user(?:name)?|password)=)[^&\s]*?(?=_channel=|[&\s]|$)", re.IGNORECASE)
# What follows the application in an address of RTMP is the key of the stream, its query included.
_STREAM_KEY = re.compile(r"(rtmp\w*:/+[^/\s]+/[^/\s?#]*/)\S*[\w=*-]", re.IGNORECASE)


def redact(text: str) -> str:
    """The text with user names, passwords and keys of every URL in it replaced by '***', rather too much than less."""
    text = _SECRET.sub(r"\1***", _USERINFO.sub("***@", text))
    return _STREAM_KEY.sub(r"\1***", _IN_PATH.sub(r"\1***", text))
