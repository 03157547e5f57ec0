"""The server of the browser view: a thread of its own around uvicorn."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType

from sharpose_rt.errors import ConfigError, OutputError
from sharpose_rt.live.address import Listen
from sharpose_rt.live.hub import Hub

log = logging.getLogger("sharpose_rt")
_UVICORN = logging.getLogger("uvicorn.error")

_SEND_BUFFER = 256 << 10  # bytes the system holds for a slow viewer: about one picture, not seconds of them
_GONE_MS = 60_000  # that a viewer may take nothing, or not even tell that it is there
_BACKLOG = 32  # all that wait are let in at once, before one can be sent away


class LiveServer:
    """Serves a hub from `with` to the end of its block. The port is bound at once, so that a wrong one fails early.

    `url` is what to open in a browser on this machine.

    Raises:
        ConfigError: the extra `serve` is not installed.
        OutputError: the address cannot be listened on.
    """

    def __init__(self, hub: Hub, listen: Listen) -> None:
        try:
            import uvicorn
            import websockets  # noqa: F401  (uvicorn's sockets)

            from sharpose_rt.live.guard import PromptRequests
            from sharpose_rt.live.routes import create_app
        except ImportError as error:
            raise ConfigError(
                f"--serve needs {error.name}, which is not here; pip install 'sharpose-rt[serve]'"
            ) from error
        self.hub, self._listen = hub, listen
        self._socket = _bind(listen)
        self.url = listen.url(self._socket.getsockname()[1])
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="picture")
        self._server = uvicorn.Server(
            uvicorn.Config(
                create_app(hub, listen, self._executor),
                http=PromptRequests,
                ws="websockets-sansio",
                ws_max_size=1 << 16,  # what a viewer says is short
                ws_per_message_deflate=False,
                lifespan="off",
                access_log=False,
                log_config=None,  # ours
                log_level="error",  # it warns of each request that is none, and anybody can send those
                server_header=False,
                backlog=_BACKLOG,  # which takes the place of the one of `_bind`
                timeout_graceful_shutdown=2,
            )
        )
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()), name="serve")

    def __enter__(self) -> LiveServer:
        _UVICORN.addFilter(self._is_news)
        self._thread.start()
        log.info("view: %s%s", self.url, " (add ?token=..., once)" if self._listen.token else "")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.hub.close()
        self._server.should_exit = True
        self._thread.join()
        _UVICORN.removeFilter(self._is_news)
        self._executor.shutdown()
        self._socket.close()

    def _is_news(self, record: logging.LogRecord) -> bool:
        """Not that a viewer who takes nothing has to be cut off at the end, for which uvicorn has a traceback.

        Nor that one says what is no UTF-8, as anybody can.
        """
        return not self.hub.closed and not (record.exc_info and isinstance(record.exc_info[1], UnicodeDecodeError))

    async def _main(self) -> None:
        self.hub.attach(asyncio.get_running_loop())
        try:
            await self._server.serve(sockets=[self._socket])
            for left in self._server.server_state.connections:
                left.transport.abort()  # closing it goes on until its viewer takes something, which may be never
        finally:
            self.hub.attach(None)


def _bind(listen: Listen) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            listen.host, listen.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, protocol)
        try:
            if os.name == "posix":  # elsewhere it would let a second program take the port
                bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)  # accepted sockets inherit it
            if hasattr(socket, "TCP_USER_TIMEOUT"):  # or who is frozen keeps its place for ever
                bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _GONE_MS)
            bound.bind(address)
            bound.listen(_BACKLOG)
        except BaseException:
            bound.close()
            raise
    except (OSError, ValueError) as error:  # a name that cannot be looked up is a UnicodeError
        raise OutputError(
            f"--serve cannot listen on {listen.host} port {listen.port}: {getattr(error, 'strerror', None) or error}; "
            "choose another port, or 0 for any free one"
        ) from error
    return bound
