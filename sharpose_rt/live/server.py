"""The server of the browser view: uvicorn in a separate thread."""

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

_SEND_BUFFER = 256 << 10  # bytes that the system holds for a slow viewer: about one picture, not seconds of them
_GONE_MS = 60_000  # for which a viewer may take nothing and not even acknowledge
_BACKLOG = 32  # all pending connections are accepted at once, before any can be dropped


class LiveServer:
    """Serves a hub during its `with` block. The port is bound at once, so that an unusable one fails early.

    `url` is the address to open in a browser on this machine.

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
                f"--serve needs {error.name}, which is not installed; pip install 'sharpose-rt[serve]'"
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
                ws_max_size=1 << 16,  # viewers send only short messages
                ws_per_message_deflate=False,
                lifespan="off",
                access_log=False,
                log_config=None,  # ours
                log_level="error",  # it warns about each malformed request, and anybody can send those
                server_header=False,
                backlog=_BACKLOG,  # replaces that of `_bind`
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
        """Whether to log it: not uvicorn's traceback when a viewer who takes nothing is cut off at the end.

        Nor that a viewer sent invalid UTF-8, as anybody can.
        """
        return not self.hub.closed and not (record.exc_info and isinstance(record.exc_info[1], UnicodeDecodeError))

    async def _main(self) -> None:
        self.hub.attach(asyncio.get_running_loop())
        try:
            await self._server.serve(sockets=[self._socket])
            for left in self._server.server_state.connections:
                left.transport.abort()  # close() would wait until its viewer takes something, which may be never
        finally:
            self.hub.attach(None)


def _bind(listen: Listen) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            listen.host, listen.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, protocol)
        try:
            if os.name == "posix":  # on Windows it would let a second program take the port
                bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)  # accepted sockets inherit it
            if hasattr(socket, "TCP_USER_TIMEOUT"):  # otherwise a frozen viewer keeps its place forever
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
