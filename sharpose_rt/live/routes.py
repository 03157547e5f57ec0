"""The server's routes: the page, live skeletons and pictures, the last seconds, and the status of the runs."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import Executor
from importlib.resources import files
from typing import Any
from weakref import WeakKeyDictionary, ref

import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp, Message
from starlette.websockets import WebSocket, WebSocketDisconnect

from sharpose_rt.live import metrics
from sharpose_rt.live.address import Listen
from sharpose_rt.live.guard import MAX_CONNECTIONS, Guard
from sharpose_rt.live.hub import Hub, LiveRun, Moment
from sharpose_rt.live.picture import Drawn, Pictures
from sharpose_rt.live.thinned import Thinned

_STATUS_S = 0.5
_GOING_AWAY, _TRY_LATER = 1001, 1013
# Open at once for all viewers: a page has two. The remaining connections serve requests for metrics and health.
_MAX_SOCKETS = MAX_CONNECTIONS - 64
_BOUNDARY = "frame"
_LINES_AT_ONCE = 16
_AGAIN_S = 0.25  # Chromium shows a part of a multipart response when the next one comes, so the last is sent twice
_PICTURES_AHEAD = 2  # on the way to a viewer at once: one is sent while one is drawn
_TYPES = {"html": "text/html", "js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}


def create_app(hub: Hub, listen: Listen, executor: Executor) -> ASGIApp:
    """The whole application behind its guard; `executor`, with one thread, encodes pictures."""
    routes = _Routes(hub, executor)
    app = Starlette(
        routes=[
            Route("/", routes.page),
            Route("/wall", routes.wall),
            Route("/assets/{name}", routes.asset),
            Route("/healthz", routes.healthz),
            Route("/metrics", routes.metrics),
            Route("/api/latest", routes.latest),
            Route("/api/recent", routes.recent),
            Route("/api/status", routes.status),
            Route("/picture.jpg", routes.picture),
            Route("/video.mjpg", routes.video),
            WebSocketRoute("/skeletons", routes.skeletons),
            WebSocketRoute("/view", routes.view),
        ]
    )
    return Guard(app, listen)


class _Routes:
    def __init__(self, hub: Hub, executor: Executor) -> None:
        self._hub, self._executor = hub, executor
        self._sockets = 0
        self._pictures: WeakKeyDictionary[LiveRun, dict[bool, Pictures]] = WeakKeyDictionary()  # large and small
        self._drawn: WeakKeyDictionary[LiveRun, Drawn] = WeakKeyDictionary()
        self._shared: tuple[float, dict[str, Any]] = -math.inf, {}  # time of the status, and the status
        self._page = {item.name: item.read_bytes() for item in (files("sharpose_rt.live") / "page").iterdir()}

    # Pages and figures

    async def page(self, request: Request) -> Response:
        """The browser view."""
        return self._file("index.html")

    async def wall(self, request: Request) -> Response:
        """All sources side by side."""
        return self._file("wall.html")

    async def asset(self, request: Request) -> Response:
        """A part of the page."""
        return self._file(request.path_params["name"])

    async def healthz(self, request: Request) -> Response:
        """200 while all runs go on (or none has begun), 503 if a source is lost or frames have stopped coming."""
        runs = self._hub.runs
        states = {run.name: run.state for run in runs}
        healthy = not {"stalled", "lost"} & set(states.values())
        return _json({"ok": healthy, "runs": states}, 200 if healthy else 503)

    async def metrics(self, request: Request) -> Response:
        """Figures for Prometheus."""
        return Response(metrics.render(self._hub), headers={"Content-Type": metrics.CONTENT_TYPE})

    async def status(self, request: Request) -> Response:
        """The figures of the page, without the plots."""
        return _json(self._status())

    async def latest(self, request: Request) -> Response:
        """The newest frame line; 503 before there is one."""
        newest = self._run(request).newest
        if newest is None:
            raise HTTPException(503, "no frame yet; try again soon")
        return Response(newest.line, media_type="application/json")

    async def recent(self, request: Request) -> Response:
        """The last `seconds` as a stream file to save."""
        limit = self._hub.config.history_s
        text = request.query_params.get("seconds", "10")
        try:
            seconds = float(text)
        except ValueError:
            seconds = -1.0
        if not 0 < seconds <= limit:
            raise HTTPException(400, f"seconds is {text!r}; above 0 and at most {limit:g} is accepted")
        run = self._run(request)
        if not run.header:
            raise HTTPException(503, f"{run.name} is waiting for its source; try again later")
        name = "".join(c if c.isalnum() or c in "-_." else "_" for c in run.name) + ".last.skeletons.jsonl"
        lines = await asyncio.get_running_loop().run_in_executor(self._executor, run.recent, seconds)
        return StreamingResponse(
            _bit_by_bit(lines),
            media_type="application/x-ndjson",
            headers={
                "Content-Disposition": f'attachment; filename="{name.encode("ascii", "replace").decode()}"',
                "Content-Length": str(sum(map(len, lines))),
            },
        )

    async def picture(self, request: Request) -> Response:
        """The newest frame with its people drawn on it, as JPEG; 503 before there is one."""
        run = self._run(request)
        if run.newest is None:
            raise HTTPException(503, "no frame yet; try again soon")
        return Response(await self._draw(run, run.newest), media_type="image/jpeg")

    async def video(self, request: Request) -> Response:
        """The same as a stream: one JPEG after another (multipart), the newest each time."""
        self._run(request)
        if self._sockets >= _MAX_SOCKETS:
            raise HTTPException(503, "too many viewers")
        parts = self._drawn_parts(request) if request.method == "GET" else iter(())
        return StreamingResponse(parts, media_type=f"multipart/x-mixed-replace; boundary={_BOUNDARY}")

    async def _drawn_parts(self, request: Request) -> AsyncIterator[bytes]:
        self._sockets += 1
        self._hub.viewers += 1
        try:
            async for jpeg in self._newest(request, self._draw, _AGAIN_S):
                head = f"--{_BOUNDARY}\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
                yield head.encode() + jpeg + b"\r\n"
        finally:
            self._sockets -= 1
            self._hub.viewers -= 1

    async def _draw(self, run: LiveRun, moment: Moment) -> bytes:
        """A frame of a run, drawn."""
        hub = self._hub
        if run not in self._drawn:
            assert run.skeleton is not None
            self._drawn[run] = Drawn(run.skeleton, hub.config, hub.draw, hub.region)
        return await asyncio.get_running_loop().run_in_executor(self._executor, self._drawn[run].jpeg, moment)

    def _file(self, name: str) -> Response:
        if name not in self._page:
            raise HTTPException(404, "there is no such page; the view is at /")
        return Response(self._page[name], media_type=_TYPES[name.rpartition(".")[2]])

    def _run(self, request: HTTPConnection) -> LiveRun:
        name = request.query_params.get("source")
        run = self._hub.pick(name)
        if run is None:
            known = ", ".join(r.name for r in self._hub.runs) or "none yet"
            raise HTTPException(404 if name else 503, f"no source {name or ''}; sources: {known}")
        return run

    def _status(self) -> dict[str, Any]:
        publishers = [figures() for figures in self._hub.publishers]
        runs = [run.status() for run in self._hub.runs]
        return {
            "type": "status",
            "runs": runs,
            "region": self._hub.region,
            "viewers": self._hub.viewers,
            "publish": publishers,
        }

    def _shared_status(self) -> dict[str, Any]:
        """The status, made anew at most every half `_STATUS_S`: a wall page asks for it once per source."""
        if time.monotonic() - self._shared[0] > _STATUS_S / 2:
            self._shared = time.monotonic(), self._status()
        return self._shared[1]

    # Sockets

    async def skeletons(self, socket: WebSocket) -> None:
        """Stream version 1, one line per message: header, the newest frame each time, end; then the next file.

        With `?ask=1` each frame is sent only once the program has asked for it by any message: otherwise frames for a
        slow program would wait in its system's buffers, where newer ones cannot replace them.
        """
        asked = _Asked(1) if socket.query_params.get("ask") == "1" else None
        listen = _ignore(socket) if asked is None else asked.listen(socket)
        self._hub.viewers += 1
        try:
            await self._converse(socket, self._send_skeletons(socket, asked), listen)
        finally:
            self._hub.viewers -= 1

    async def view(self, socket: WebSocket) -> None:
        """For the page: figures as text, pictures as bytes; any message from the page asks for one more picture.

        With `?small=1` pictures have the size for a page that shows many.
        """
        asked = _Asked(_PICTURES_AHEAD)
        await self._converse(
            socket, self._send_pictures(socket, asked), self._send_status(socket), asked.listen(socket)
        )

    async def _converse(self, socket: WebSocket, *parts: Coroutine[Any, Any, None]) -> None:
        """Runs the parts of a conversation until one of them ends; refuses it if too many are open."""
        await socket.accept()
        if self._sockets >= _MAX_SOCKETS:
            for part in parts:
                part.close()
            await socket.close(_TRY_LATER, "too many viewers")
            return
        self._sockets += 1
        tasks = [asyncio.ensure_future(part) for part in parts]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._sockets -= 1
            for task in tasks:
                task.cancel()
            ends = await asyncio.gather(*tasks, return_exceptions=True)
            with contextlib.suppress(WebSocketDisconnect, RuntimeError):  # the viewer may have left first
                await socket.close(_GOING_AWAY)
        for end in ends:
            if isinstance(end, Exception) and not isinstance(end, (WebSocketDisconnect, RuntimeError)):
                raise end

    async def _send_skeletons(self, socket: WebSocket, asked: _Asked | None) -> None:
        shown: LiveRun | None = None
        thinned, ended = Thinned(), False
        async for run in self._news(socket):
            if not run.header:
                continue
            if run is not shown:
                if shown is not None and not ended and shown.end_line is not None:
                    await socket.send_text(thinned.end(shown.end_line).decode())
                shown, thinned, ended = run, Thinned(), False
                await socket.send_text(run.header.decode())
            if asked is not None and run.newest is not None and run.newest.frame.frame_id > thinned.last_id:
                await asked.once()
            end, moment = run.end_line, run.newest  # in this order: nothing comes after the end
            if moment is not None and moment.frame.frame_id > thinned.last_id:
                line = thinned.frame(moment.frame.frame_id, moment.line, moment.place)
                moment = None  # otherwise its picture is kept while this viewer takes nothing
                await socket.send_text(line.decode())
            if end is not None and not ended:
                ended = True
                await socket.send_text(thinned.end(end).decode())

    async def _send_pictures(self, socket: WebSocket, asked: _Asked) -> None:
        small = socket.query_params.get("small") == "1"

        async def encoded(run: LiveRun, moment: Moment) -> bytes:
            sizes = self._pictures.setdefault(run, {})
            if small not in sizes:
                assert run.skeleton is not None
                sizes[small] = Pictures(run.skeleton, self._hub.config, self._hub.draw, small=small)
            return await asyncio.get_running_loop().run_in_executor(self._executor, sizes[small].message, moment)

        await asked.once()
        async for message in self._newest(socket, encoded):
            await socket.send_bytes(message)
            await asked.once()

    async def _send_status(self, socket: WebSocket) -> None:
        told_s = -1.0
        while not self._hub.closed:
            run = self._hub.pick(socket.query_params.get("source"))
            status = {**self._shared_status(), "run": None if run is None else run.name, "ticks": []}
            if run is not None:
                status["ticks"] = [tick for tick in list(run.ticks) if tick["t"] > told_s]
                told_s = max((told_s, *(tick["t"] for tick in status["ticks"])))
            await socket.send_text(orjson.dumps(status).decode())
            await asyncio.sleep(_STATUS_S)

    async def _newest(
        self,
        socket: HTTPConnection,
        encoded: Callable[[LiveRun, Moment], Awaitable[bytes]],
        again_s: float | None = None,
    ) -> AsyncIterator[bytes]:
        """Yields the newest frame of the run to show, encoded, at most `picture_fps` times a second; and once more if
        none follows for `again_s`.

        The frame is released first: otherwise each viewer that is paused or takes nothing would keep one in memory.
        """
        last: ref[Moment] | None = None
        given_s, pause_s = -1.0, 1 / self._hub.config.picture_fps
        message = b""  # kept until it has been sent twice
        async for run in self._news(socket, again_s):
            if run.newest is None:
                continue
            if last is not None and run.newest is last():
                if message and again_s is not None and time.monotonic() >= given_s + again_s:
                    yield message
                    message = b""
                continue
            await asyncio.sleep(max(0.0, given_s + pause_s - time.monotonic()))
            moment, given_s = run.newest, time.monotonic()
            message, last = await encoded(run, moment), ref(moment)
            del moment
            yield message

    async def _news(self, socket: HTTPConnection, at_least_s: float | None = None) -> AsyncIterator[LiveRun]:
        """Yields the run to show whenever it has news, and at least every `at_least_s`, until the server closes."""
        name = socket.query_params.get("source")
        with self._hub.listening() as event:
            while True:
                closed = self._hub.closed
                if (run := self._hub.pick(name)) is not None:
                    yield run
                if closed:
                    return
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(event.wait(), at_least_s)
                event.clear()


class _Asked:
    """How many more items a viewer has asked for, one per message: at most `ahead`, which is also the start."""

    def __init__(self, ahead: int) -> None:
        self._ahead: asyncio.Queue[None] = asyncio.Queue(ahead)
        for _ in range(ahead):
            self._ahead.put_nowait(None)

    async def once(self) -> None:
        """Waits until it has asked for one."""
        await self._ahead.get()

    async def listen(self, socket: WebSocket) -> None:
        """Counts its messages until it leaves."""
        async for _ in _messages(socket):
            if not self._ahead.full():
                self._ahead.put_nowait(None)


async def _messages(socket: WebSocket) -> AsyncIterator[Message]:
    """A viewer's messages, text or bytes, until it leaves."""
    while (message := await socket.receive())["type"] != "websocket.disconnect":
        yield message


async def _ignore(socket: WebSocket) -> None:
    """Reads and ignores a viewer's messages, so that its leaving is noticed."""
    async for _ in _messages(socket):
        pass


async def _bit_by_bit(lines: Sequence[bytes]) -> AsyncIterator[bytes]:
    """Yields some lines at a time: viewers share them, but full copies for many viewers might not fit in memory."""
    for first in range(0, len(lines), _LINES_AT_ONCE):
        yield b"".join(lines[first : first + _LINES_AT_ONCE])


def _json(value: Any, status: int = 200) -> Response:
    return Response(orjson.dumps(value), status, media_type="application/json")
