"""Removes secrets from stream addresses."""

from __future__ import annotations

import re

# A password extends to the last '@': it may contain '/', '?', '#' or spaces, and one of digits looks like a port. It
# ends before the next address, which follows a space.
# One missing slash still leaves a password; a single letter before a slash is a drive.
_USERINFO = re.compile(r"(?:(?<=://)|(?<=[\w+.-]{2}:/))(?:[^/?#\s]*?:(?:(?!\s\S*://).)*|[^/?#\s]*)@")
_SECRET = re.compile(
    r"([?&;#](?:[\w-]*(?:token|passw(?:or)?d|passphrase|pass?|pwd|ps?w|secret|signature|key|auth|credentials?|policy"
    r"|key-pair-id|authorization|authbasic|bearer|jwt|sess(?:ion)?(?:_?id)?|\w*hash|hmac|md5|\w*sign|ticket)|(?:\w*_|access|auth|pass)?code"
    r"|user(?:name)?|usr|loginuse|sig|streamid|sid|hdn\w+|pin|otp|sas)=)[^&#\s]+",
    re.IGNORECASE,
)
# XMEye recorders have both in the path, as in /user=NAME_password=SECRET_channel=1_stream=0.sdp.
_IN_PATH = re.compile(r"(/(?:user(?:name)?|password)=)[^&\s]*?(?=_channel=|[&\s]|$)", re.IGNORECASE)
# In an RTMP address, everything after the application is the stream key, including the query.
_STREAM_KEY = re.compile(r"(rtmp\w*:/+[^/\s]+/[^/\s?#]*/)\S*[\w=*-]", re.IGNORECASE)


def redact(text: str) -> str:
    """The text with user names, passwords and keys in URLs replaced by '***', rather too much than too little."""
    text = _SECRET.sub(r"\1***", _USERINFO.sub("***@", text))
    return _STREAM_KEY.sub(r"\1***", _IN_PATH.sub(r"\1***", text))
