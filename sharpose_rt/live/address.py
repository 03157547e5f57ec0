"""The addresses of `--serve`, `--publish` and `--publish-video`, checked before anything is opened."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from ssl import SSLContext
from urllib.parse import SplitResult, quote, unquote, urlsplit

from sharpose_rt.errors import ConfigError
from sharpose_rt.media import redact
from sharpose_rt.media.certificates import context, ffmpeg_options

_SCHEMES = ("ws", "wss", "zmq+tcp", "mqtt", "mqtts", "udp", "osc")
_TOPIC_BYTES = 65_000  # of 65,535 in MQTT, with room for a suffix
_VIDEO_FORMATS = {
    **{"rtsp": "rtsp", "rtsps": "rtsp", "rtmp": "flv", "rtmps": "flv"},
    **{"srt": "mpegts", "udp": "mpegts", "tcp": "mpegts"},
}
_USUAL_PORTS = {"rtsp": 554, "rtsps": 322, "rtmp": 1935, "rtmps": 443}
_PLACE = "{source}"
_MIN_TOKEN = 8
_ORIGIN = re.compile(r"([a-z][a-z0-9+.-]*)://([a-z0-9._-]+|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?")
PORTS_LEFT_OUT = {"http": 80, "https": 443}
"""Ports that browsers omit from an origin."""


@dataclass(frozen=True)
class Listen:
    """Where to listen: `host` without brackets, `port` 0 for any free one; pages of `origins` may connect, too."""

    host: str
    port: int
    token: str | None = None
    origins: tuple[str, ...] = ()

    @property
    def loopback(self) -> bool:
        """Whether only programs on this machine can connect."""
        return is_loopback(self.host)

    def url(self, port: int) -> str:
        """The address to open in a browser on this machine."""
        everywhere = self.host in ("0.0.0.0", "::")
        host = "127.0.0.1" if everywhere else f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{port}/"


def parse_listen(text: str, token: str | None = None, origins: Sequence[str] = ()) -> Listen:
    """The address of `[HOST:]PORT`; the host is 127.0.0.1 unless given.

    Raises:
        ConfigError: the address, the token or an origin is malformed, or others could connect without a token.
    """
    host, _, port = text.rpartition(":")
    if ":" in host and not (host.startswith("[") and host.endswith("]")):
        raise ConfigError(f"--serve is {text!r}; an IPv6 address needs brackets, as in [::1]:8080")
    if not port.isdecimal() or int(port) > 65535 or (":" in text and not host):
        raise ConfigError(f"--serve is {text!r}; [HOST:]PORT is accepted, as in 8080 or 0.0.0.0:8080")
    listen = Listen(host.strip("[]") or "127.0.0.1", int(port), token, tuple(map(_origin, origins)))
    if not _is_name(listen.host):
        raise ConfigError(f"--serve is {text!r}; {listen.host!r} is not a host: check for an extra dot or a long part")
    if token is not None and (len(token) < _MIN_TOKEN or not token.isascii() or not token.isprintable()):
        raise ConfigError(f"--token has {len(token)} characters; {_MIN_TOKEN} or more of printable ASCII are accepted")
    if token is None and not listen.loopback:
        raise ConfigError(
            f"--serve {text} would show the pictures to everybody who can reach {listen.host}; set a secret with "
            "--token (or SHARPOSE_TOKEN), as in --token $(openssl rand -hex 16), or listen on 127.0.0.1"
        )
    return listen


def _origin(text: str) -> str:
    """The origin as browsers write it."""
    found = _ORIGIN.fullmatch(text.lower())
    if found is None:
        raise ConfigError(
            f"--allow-origin is {text!r}; SCHEME://HOST[:PORT] of one site without a path is accepted, as in "
            "http://localhost:5173"
        )
    scheme, host, port = found.groups()
    return f"{scheme}://{host}" + ("" if port is None or int(port) == PORTS_LEFT_OUT.get(scheme) else f":{port}")


def _is_name(host: str) -> bool:
    """Whether the host name is well-formed, even if no such host exists."""
    try:
        host.encode("idna")
    except UnicodeError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Whether the host, a name or an address, is this machine only."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True)
class Target:
    """Where to publish: `scheme` with the consumer's `host` and `port`; with `bind` the consumer connects to us.
    `topic` is for MQTT; `trusted` says which certificates to trust on an encrypted connection."""

    scheme: str
    url: str
    host: str = ""
    port: int = 0
    bind: bool = False
    topic: str = ""
    trusted: SSLContext | None = field(default=None, compare=False)

    @property
    def name(self) -> str:
        """The name for messages, without secrets."""
        return "stdout" if self.scheme == "-" else redact(self.url)


def parse_target(text: str, tls: str = "verify") -> Target:
    """The target of a `--publish` address.

    Args:
        text: the address.
        tls: whom to trust, see `source.tls`.

    Raises:
        ConfigError: not an address, an unknown scheme, no host, port or topic, or a socket that others could reach.
        SourceError: see `certificates.context`.
    """
    if text == "-":
        return Target("-", "-")
    where = f"--publish is {redact(text)!r}"
    parts = _split(text, where)
    if parts.scheme not in _SCHEMES:
        raise ConfigError(
            f"{where}; ws://, wss://, zmq+tcp://, mqtt://, mqtts://, udp:// or osc:// with host:port, or - is accepted"
        )
    bind = parts.scheme == "zmq+tcp" and parts.netloc.startswith("@")
    host, port = _place(parts, where, {"ws": 80, "wss": 443, "mqtt": 1883, "mqtts": 8883})
    if host == "*" or (bind and not is_loopback(host)):
        raise ConfigError(
            f"{where}: a ZeroMQ socket has no token, so it binds only to this machine, as in "
            f"zmq+tcp://@127.0.0.1:{port}; to reach another machine, let the consumer bind there and give its address, "
            f"zmq+tcp://HOST:{port}"
        )
    topic = _topic(text, parts, where) if parts.scheme in ("mqtt", "mqtts") else ""
    trusted = context(tls) if parts.scheme in ("wss", "mqtts") else None
    return Target(parts.scheme, text, host, port, bind, topic, trusted)


def _topic(text: str, parts: SplitResult, where: str) -> str:
    """The MQTT topic in an address."""
    topic = unquote(parts.path.removeprefix("/"))
    if not topic:
        raise ConfigError(f"{where}; the topic is missing, as in {parts.scheme}://HOST/poses")
    if set("?#") & set(text) or set("+#\0") & set(topic) or len(topic.encode()) > _TOPIC_BYTES:
        raise ConfigError(f"{where}; a topic without '+', '#' and '?' is accepted, as in home/hall/poses")
    return topic


def _split(text: str, where: str) -> SplitResult:
    try:
        return urlsplit(text)
    except ValueError:  # its text may contain the password
        raise ConfigError(f"{where}; SCHEME://HOST:PORT is accepted, an IPv6 HOST in brackets, as in [::1]") from None


def _place(parts: SplitResult, where: str, usual: Mapping[str, int]) -> tuple[str, int]:
    """Host and port of an address; `usual` ports may be omitted."""
    try:
        host, port = parts.hostname, parts.port or usual.get(parts.scheme)
    except ValueError:
        raise ConfigError(f"{where}; the port is a number from 1 to 65535") from None
    if not host or not port:
        raise ConfigError(f"{where}; a host and a port are needed, as in {parts.scheme}://127.0.0.1:9000")
    if not _is_name(host):
        raise ConfigError(f"{where}; {host!r} is not a host: check for an extra dot or a long part")
    return host, port


@dataclass(frozen=True)
class VideoTarget:
    """A video server: `url`, and how FFmpeg writes to it. `{source}` in the address stands for the source's name."""

    url: str
    format: str
    options: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The name for messages, without secrets."""
        return redact(self.url)

    def of(self, source: str) -> VideoTarget:
        """The target of one source."""
        return replace(self, url=self.url.replace(_PLACE, quote(source, safe="")))

    def to_open(self, kbps: int) -> str:
        """The address for FFmpeg; `kbps` is the bit rate of the video, in thousands of bits per second."""
        if not self.url.lower().startswith("udp:"):
            return self.url
        # Whole MPEG-TS packets, as larger datagrams get lost, and paced: receivers lose a key frame sent in one burst.
        given, url = urlsplit(self.url).query, self.url
        for key, value in {"pkt_size": 1316, "bitrate": 10_000 * kbps}.items():
            if f"{key}=" not in given:
                url += f"{'&' if '?' in url else '?'}{key}={value}"
        return url


def parse_video_target(text: str, sources: int = 1, tls: str = "verify") -> VideoTarget:
    """The target of a `--publish-video` address.

    Args:
        text: the address.
        sources: number of simultaneous sources; with several, each needs a separate address.
        tls: whom to trust, see `source.tls`.

    Raises:
        ConfigError: not an address, an unknown scheme, no host, port or path where one is needed; several sources
            would be sent to one address; or the server could not be verified.
        SourceError: see `certificates.ffmpeg_options`.
    """
    where = f"--publish-video is {redact(text)!r}"
    parts = _split(text, where)
    if parts.scheme not in _VIDEO_FORMATS:
        raise ConfigError(f"{where}; {', '.join(f'{scheme}://' for scheme in _VIDEO_FORMATS)} are accepted")
    _place(parts, where, _USUAL_PORTS)
    if parts.scheme.startswith("rt") and not parts.path.strip("/"):
        raise ConfigError(f"{where}; the stream's name is missing, as in {parts.scheme}://HOST/poses")
    if sources > 1 and _PLACE not in text:
        raise ConfigError(
            f"{where}, but there are {sources} sources; put {_PLACE} in place of the name of each, as in "
            f"{parts.scheme}://HOST/{_PLACE}"
        )
    options: dict[str, str] = {}
    if parts.scheme == "rtmps" and tls != "any":
        raise ConfigError(
            f"{where}: FFmpeg cannot verify the server when sending over rtmps, and could give the key to anybody; "
            "send to your own server and let it pass the video on, or use --tls any"
        )
    if parts.scheme in ("rtsp", "rtsps"):
        options = {"rtsp_transport": "tcp"}
        if parts.scheme == "rtsps":
            options |= ffmpeg_options(tls)
    else:
        options = {"flush_packets": "1"}
    return VideoTarget(text, _VIDEO_FORMATS[parts.scheme], options)
