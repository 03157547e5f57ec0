"""Access control: host, origin and token are checked before any route, and every response has strict headers.

Even before that, clients that occupy a connection without a request, or after being refused, are disconnected, sooner
when there are many.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
from typing import Any
from urllib.parse import SplitResult, parse_qsl, urlencode, urlsplit

import h11
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket
from uvicorn.protocols.http.h11_impl import H11Protocol

from sharpose_rt.live.address import PORTS_LEFT_OUT, Listen, is_loopback

log = logging.getLogger("sharpose_rt")

_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}

_PREFLIGHT = {"Access-Control-Allow-Methods": "GET", "Access-Control-Allow-Headers": "Authorization"}
_FOR_GUESTS = ("/skeletons", "/view", "/api/", "/picture.jpg", "/video.mjpg")
_OF_PROXIES = ("Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-IP", "Via")
_TOLD = 32  # refusals in the log: a client that is not a browser may send a new origin each time
_REFUSED = "sharpose_rt.refused"  # key in the scope of a request or socket, which its connection keeps
_HEAD_S = 10.0
MAX_CONNECTIONS = 192
"""Open at once, of any kind: each uses one of the process's file descriptors."""


class PromptRequests(H11Protocol):
    """uvicorn's HTTP, which cuts off clients that send no complete request head within `_HEAD_S`, or a body after the
    response.

    Beyond `MAX_CONNECTIONS` one connection is dropped at once: the oldest that is idle or was refused but has not left,
    or else the new one. So strangers cannot keep out those who have the token.
    """

    _timer: asyncio.TimerHandle | None = None
    _since_s = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Limits the wait for the first request; later ones are limited once begun (uvicorn limits the pauses)."""
        super().connection_made(transport)
        self._since_s = self.loop.time()
        self._look()
        if len(self.connections) > MAX_CONNECTIONS:
            spare = filter(_is_spare, self.connections)
            min(spare, key=lambda other: getattr(other, "_since_s", 0.0), default=self).transport.abort()

    def data_received(self, data: bytes) -> None:
        """Stops waiting once a head is complete."""
        super().data_received(data)
        self._look()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stops waiting."""
        super().connection_lost(exc)
        self._wait(None)

    def _look(self) -> None:
        if self.conn.our_state is h11.DONE and self.conn.their_state is h11.SEND_BODY:
            self.transport.close()  # already answered, but still sending a body that nobody reads
            return
        if self.conn.their_state is not h11.IDLE:
            self._wait(None)
        elif self._timer is None:
            self._wait(self.loop.call_later(_HEAD_S, self.transport.close))

    def _wait(self, timer: asyncio.TimerHandle | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = timer


def _is_spare(connection: Any) -> bool:
    """Whether it requests nothing or was refused: a refused socket stays open until it answers the close, a request
    until its body ends.

    A closing connection remains until its client has read the rest, which may be never.
    """
    scope = getattr(connection, "scope", None)
    let_in = scope is not None and not scope.get(_REFUSED, True)  # undecided counts as refused: it can ask again
    if connection.transport.is_closing():
        return not let_in and connection.transport.get_write_buffer_size() > 0
    idle = isinstance(connection, PromptRequests) and connection.conn.their_state is h11.IDLE
    return idle or not let_in


class Guard:
    """Passes a request on to `app`, or answers 401 or 403 (4401 or 4403 on a WebSocket) and nothing else.

    * A page of another origin is refused, even with the token, unless it is one of `listen.origins`: those are guests,
      who may use the sockets, the pictures and /api.
    * Without a token, only requests to names of this machine are answered, so that no foreign name can be pointed at
      it (DNS rebinding), and none that a proxy forwards: a proxy uses such a name on behalf of everybody.
    * The token comes as `Authorization: Bearer`, as `?token=`, or as the cookie that is set on a first visit of the
      page with `?token=`, which also removes it from the address. The cookie is sent when a link on another site is
      followed (`lax`), including the first visit, but not with other requests of such a page.
    """

    def __init__(self, app: ASGIApp, listen: Listen) -> None:
        self._app, self._listen = app, listen
        self._told: set[str] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Checks one request or socket."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        guest = self._guest(scope, headers)
        status, why = self._refusal(scope, headers, guest)
        scope[_REFUSED] = status > 0
        if scope["type"] == "http":
            answer: Response | None
            if guest and status != 403 and scope["method"] == "OPTIONS":
                answer = Response(status_code=204, headers=_PREFLIGHT)  # comes before the token
            else:
                answer = self._refused(status, why) if status else self._welcome(scope, headers)
            await (answer or self._app)(scope, receive, _with_headers(send, guest))
        elif not status:
            await self._app(scope, receive, send)
        else:
            # Accepted first: a browser sees the close code only of an open socket.
            socket = WebSocket(scope, receive, send)
            await socket.accept()
            await socket.close(4000 + status, why)

    def _guest(self, scope: Scope, headers: Headers) -> str:
        """The origin of another site's page if it may have what it requests, else ''."""
        origin = headers.get("origin", "")
        return origin if origin in self._listen.origins and scope["path"].startswith(_FOR_GUESTS) else ""

    def _refusal(self, scope: Scope, headers: Headers, guest: str) -> tuple[int, str]:
        """Status and reason, within the 123 bytes of ASCII that a close frame has room for; 0 if access is granted."""
        host, origin = headers.get("host", ""), headers.get("origin")
        if self._listen.token is None:
            if not is_loopback(_split(host).hostname or ""):
                return 403, f"{_short(host)} is not a name of this machine, and there is no --token"
            if passed_on := [name for name in _OF_PROXIES if name in headers]:
                return 403, f"{passed_on[0]} shows that a proxy forwarded this request, and there is no --token"
        if not guest and origin is not None and not _is_own(origin, host):
            return 403, self._foreign(origin)
        if not self._known(scope, headers):
            return 401, "a token is needed: ?token=..., or the header Authorization: Bearer ..."
        return 0, ""

    def _foreign(self, origin: str) -> str:
        """Why a page of another origin is refused; logged once for each reason."""
        if origin in self._listen.origins:
            why = f"pages of {_short(origin)} may only request skeletons, pictures and /api"
        elif origin == "null":
            why = "a page from a file has no origin; serve it over HTTP and give its address to --allow-origin"
        else:
            why = f"pages of other sites need --allow-origin {_short(origin)}"
        if why not in self._told and len(self._told) < _TOLD:
            self._told.add(why)
            log.warning("the view refused a page: %s", why)
        return why

    def _known(self, scope: Scope, headers: Headers) -> bool:
        if self._listen.token is None:
            return True
        wanted = self._listen.token.encode()
        kind, _, bearer = headers.get("authorization", "").partition(" ")
        given = [bearer.strip()] if kind.lower() == "bearer" else []
        given += [value for plus in ("+", "%2B") for key, value in _query(scope, plus) if key == "token"]
        if (cookie := _cookie(headers, self._cookie_name(headers))) is not None:
            given.append(cookie)
        return any(hmac.compare_digest(token.encode(), wanted) for token in given)

    def _welcome(self, scope: Scope, headers: Headers) -> Response | None:
        """On the first visit of a page, a redirect that moves the token from the address into a cookie."""
        rest = [(key, value) for key, value in _query(scope) if key != "token"]
        page = scope["path"]
        if self._listen.token is None or page not in ("/", "/wall") or len(rest) == len(_query(scope)):
            return None
        # Relative, and for this path only: it may be one of several views behind a proxy, each below its own path.
        answer = RedirectResponse(f".{page}" + (f"?{urlencode(rest)}" if rest else ""), status_code=303)
        https = "https" in (scope["scheme"], headers.get("x-forwarded-proto"))
        name, value = self._cookie_name(headers), self._listen.token.encode().hex()
        answer.set_cookie(name, value, secure=https, httponly=True, samesite="lax", path=None)
        return answer

    @staticmethod
    def _cookie_name(headers: Headers) -> str:
        """A name for each port: cookies do not distinguish ports, but two views on one machine differ only in them."""
        return f"sharpose_{_split(headers.get('host', '')).port or 80}"

    @staticmethod
    def _refused(status: int, why: str) -> Response:
        return PlainTextResponse(f"{why}\n", status, {"WWW-Authenticate": "Bearer"} if status == 401 else None)


def _is_own(origin: str, host: str) -> bool:
    """Whether the page is ours. Browsers omit the default port, but a proxy may add it to the host that it forwards."""
    scheme, _, place = origin.lower().partition("://")
    return bool(place) and host.lower() in (place, f"{place}:{PORTS_LEFT_OUT.get(scheme)}")


def _short(text: str) -> str:
    """Text from a stranger, made safe and short for a message."""
    shown = ascii(text)[1:-1]
    return shown if len(shown) <= 60 else f"{shown[:57]}..."


def _query(scope: Scope, plus: str = "+") -> list[tuple[str, str]]:
    """The query; `+` means a space, or itself with `plus` "%2B", as in a base64 token that was typed unescaped."""
    return parse_qsl(scope["query_string"].decode("latin-1").replace("+", plus), keep_blank_values=True)


def _cookie(headers: Headers, name: str) -> str | None:
    """The cookie's token, stored as hexadecimal because a cookie cannot hold every character."""
    # Other programs on this machine may set cookies of any form here: the strict parser of `http.cookies` would stop at
    # the first one it rejects.
    value = cookie_parser(headers.get("cookie", "")).get(name)
    try:
        return None if value is None else bytes.fromhex(value).decode()
    except ValueError:
        return None


def _split(host: str) -> SplitResult:
    """The parts of a Host header; empty if it is malformed."""
    try:
        parts = urlsplit(f"//{host}")
        _ = parts.port  # checked only on access
        return parts
    except ValueError:
        return urlsplit("")


def _with_headers(send: Send, guest: str) -> Any:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in _HEADERS.items():
                headers.setdefault(name, value)
            if guest:
                headers["Access-Control-Allow-Origin"] = guest
        await send(message)

    return sending
