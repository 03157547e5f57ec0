"""What `--serve` and `--publish` take: addresses, checked before anything is opened."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from sharpose_rt.errors import ConfigError
from sharpose_rt.media import redact

_SCHEMES = ("ws", "wss", "zmq+tcp", "udp", "osc")
_MIN_TOKEN = 8
_ORIGIN = re.compile(r"([a-z][a-z0-9+.-]*)://([a-z0-9._-]+|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?")
_PORTS = {"http": 80, "https": 443}  # which browsers leave out of an origin


@dataclass(frozen=True)
class Listen:
    """Where to listen: `host` without brackets, `port` 0 for any free one; pages of which other `origins` may ask."""

    host: str
    port: int
    token: str | None = None
    origins: tuple[str, ...] = ()

    @property
    def loopback(self) -> bool:
        """Only programs of this machine get here."""
        return is_loopback(self.host)

    def url(self, port: int) -> str:
        """What to open in a browser on this machine."""
        everywhere = self.host in ("0.0.0.0", "::")
        host = "127.0.0.1" if everywhere else f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{port}/"


def parse_listen(text: str, token: str | None = None, origins: Sequence[str] = ()) -> Listen:
    """The address of `[HOST:]PORT`; the host is 127.0.0.1 unless given.

    Raises:
        ConfigError: it or an origin is malformed, or others could reach it without a token.
    """
    host, _, port = text.rpartition(":")
    if ":" in host and not (host.startswith("[") and host.endswith("]")):
        raise ConfigError(f"--serve is {text!r}; an IPv6 address stands in brackets, as in [::1]:8080")
    if not port.isdecimal() or int(port) > 65535 or (":" in text and not host):
        raise ConfigError(f"--serve is {text!r}; [HOST:]PORT is accepted, as in 8080 or 0.0.0.0:8080")
    listen = Listen(host.strip("[]") or "127.0.0.1", int(port), token, tuple(map(_origin, origins)))
    if not _is_name(listen.host):
        raise ConfigError(f"--serve is {text!r}; {listen.host!r} is no host: look for a dot too many or a long part")
    if token is not None and (len(token) < _MIN_TOKEN or not token.isascii() or not token.isprintable()):
        raise ConfigError(f"--token has {len(token)} characters; {_MIN_TOKEN} or more of printable ASCII are accepted")
    if token is None and not listen.loopback:
        raise ConfigError(
            f"--serve {text} would show the pictures to everybody who can reach {listen.host}; give a secret with "
            "--token (or SHARPOSE_TOKEN), as in --token $(openssl rand -hex 16), or listen on 127.0.0.1"
        )
    return listen


def _origin(text: str) -> str:
    """The origin as browsers write it."""
    found = _ORIGIN.fullmatch(text.lower())
    if found is None:
        raise ConfigError(
            f"--allow-origin is {text!r}; SCHEME://HOST[:PORT] of one site is accepted, without a path, as in "
            "http://localhost:5173"
        )
    scheme, host, port = found.groups()
    return f"{scheme}://{host}" + ("" if port is None or int(port) == _PORTS.get(scheme) else f":{port}")


def _is_name(host: str) -> bool:
    """The host can be looked up, whether or not there is one of that name."""
    try:
        host.encode("idna")
    except UnicodeError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """The host, by name or number, is this machine and nothing but this machine."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True)
class Target:
    """Whom to publish to: `scheme` with the consumer's `host` and `port`; `bind` has it come to us instead."""

    scheme: str
    url: str
    host: str = ""
    port: int = 0
    bind: bool = False

    @property
    def name(self) -> str:
        """For messages, without secrets."""
        return "stdout" if self.scheme == "-" else redact(self.url)


def parse_target(text: str) -> Target:
    """The target of a `--publish` address.

    Raises:
        ConfigError: no address, an unknown scheme, no host, no port, or a socket that others could reach.
    """
    if text == "-":
        return Target("-", "-")
    where = f"--publish is {redact(text)!r}"
    try:
        parts = urlsplit(text)
    except ValueError:  # whose text may have the password in it
        raise ConfigError(f"{where}; SCHEME://HOST:PORT is accepted, an IPv6 HOST in brackets, as in [::1]") from None
    if parts.scheme not in _SCHEMES:
        raise ConfigError(f"{where}; ws://, wss://, zmq+tcp://, udp:// or osc:// with host:port, or - is accepted")
    bind = parts.scheme == "zmq+tcp" and parts.netloc.startswith("@")
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ConfigError(f"{where}; the port is a number from 1 to 65535") from None
    if parts.scheme in ("ws", "wss"):
        port = port or (443 if parts.scheme == "wss" else 80)
    if not host or not port:
        raise ConfigError(f"{where}; a host and a port are wanted, as in {parts.scheme}://127.0.0.1:9000")
    if not _is_name(host):
        raise ConfigError(f"{where}; {host!r} is no host: look for a dot too many or a long part")
    if host == "*" or (bind and not is_loopback(host)):
        raise ConfigError(
            f"{where}: a ZeroMQ socket has no token, so it binds to this machine alone, as in "
            f"zmq+tcp://@127.0.0.1:{port}; to reach another one give its address, zmq+tcp://HOST:{port}, where the "
            "consumer binds"
        )
    return Target(parts.scheme, text, host, port, bind)
