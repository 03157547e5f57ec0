"""The page in a real headless Chromium; skips with the reason where there is none."""

from __future__ import annotations

import io
import itertools
import shutil
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingTCPServer
from urllib.parse import urlsplit

import cv2
import numpy as np
import pytest
from live_servers import serving
from live_world import Run, header, info, packet

from sharpose_rt.live import Hub, Listen, LiveServer
from sharpose_rt.skeleton import HALPE26
from sharpose_rt.skeletons import Header, StreamReader, angle_names, joint_angles, validate
from sharpose_rt.stages import StreamSink

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")

pytestmark = pytest.mark.timeout(120)

TOKEN = "correct horse"
_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
_READY = "+canvas.dataset.frameId"  # elements with an id are globals of their page


@pytest.fixture(scope="module")
def browser() -> Iterator[playwright.Browser]:
    with playwright.sync_playwright() as driver:
        path = next(filter(None, map(shutil.which, _NAMES)), None) or driver.chromium.executable_path
        if not Path(path).exists():
            pytest.skip("no Chromium: `apt-get install chromium` or `playwright install chromium`")
        running = driver.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield running
        running.close()


@contextmanager
def _serving(
    token: str | None = None, *, fps: float = 25, region: Sequence[tuple[float, float]] = ()
) -> Iterator[tuple[LiveServer, Run]]:
    """A server with a run of three people, which goes on at some `fps`; with 0 it stands still."""
    hub, stop = Hub(region=region), threading.Event()
    with LiveServer(hub, Listen("127.0.0.1", 0, token)) as server:
        run = Run(hub, live=True)
        run.step(10)

        def go_on() -> None:
            while not stop.wait(1 / fps):
                run.step()

        thread = threading.Thread(target=go_on)
        if fps:
            thread.start()
        try:
            yield server, run
        finally:
            stop.set()
            if fps:
                thread.join()
            run.end()


@contextmanager
def _page(browser: playwright.Browser, url: str) -> Iterator[playwright.Page]:
    """A page in a process of its own; any error in it fails the test."""
    said: list[str] = []
    with browser.new_context(viewport={"width": 1280, "height": 800}, accept_downloads=True) as context:
        page = context.new_page()
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
        page.goto(url)
        yield page
    assert said == []


def _until(page: playwright.Page, expression: str) -> None:
    """Waits until the expression is true; playwright's own wait_for_function is forbidden by the page's policy."""
    for _ in range(600):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"never came true: {expression}")


def _wait_for_frame(page: playwright.Page, above: int = -1) -> int:
    _until(page, f"canvas.dataset.frameId && {_READY} > {above}")
    return page.evaluate(_READY)


def _canvas(page: playwright.Page) -> np.ndarray:
    """What the canvas shows, (H, W, 3) BGR."""
    return _shown(page, "#canvas")


def _tile(page: playwright.Page, name: str) -> np.ndarray:
    """The same of a source's picture on the wall."""
    return _shown(page, f".tile[data-name={name}] canvas")


def _shown(page: playwright.Page, place: str) -> np.ndarray:
    png = page.locator(place).screenshot()
    image = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    return image


def _near(image: np.ndarray, css: str) -> np.ndarray:
    """Where the picture has about that colour."""
    rgb = [int(css[i : i + 2], 16) for i in (1, 3, 5)]
    return (np.abs(image.astype(int) - rgb[::-1]) < 24).all(axis=2)


def test_the_page_shows_moving_skeletons(browser: playwright.Browser) -> None:
    asked: list[str] = []
    with _serving() as (server, _), _page(browser, "about:blank") as page:
        page.on("request", lambda request: asked.append(request.url))
        page.on("websocket", lambda socket: asked.append(socket.url.replace("ws://", "http://")))
        page.goto(server.url)
        first_id = _wait_for_frame(page)
        page.check("input[name=colour][value=stage]", force=True)
        first = _canvas(page)
        _wait_for_frame(page, above=first_id + 15)
        second = _canvas(page)
        assert page.locator("#state").inner_text() == "live"
        _until(page, "fps.textContent > 0")
        assert page.locator("#people").inner_text() == "3"
        assert page.locator("#list li").count() == 3
        assert page.locator("#list .tag").all_inner_texts() == ["coarse", "fine", "predicted"]
        assert "tiny_256x192" in page.locator("#facts").inner_text()
    assert first.std() > 10  # not blank
    for colour in ("#4cc9f0", "#ffb84d"):  # coarse and fine
        before, after = _near(first, colour), _near(second, colour)
        assert before.sum() > 200
        assert after.sum() > 200
        assert (before & after).sum() < 0.8 * before.sum()  # it moved
    assert len(asked) >= 8
    assert all(url.startswith(server.url) for url in asked)


def test_skeletons_lie_where_the_stream_says(browser: playwright.Browser) -> None:
    with _serving(fps=0) as (server, _), _page(browser, server.url) as page:
        _wait_for_frame(page)
        page.check("input[name=colour][value=stage]", force=True)
        page.uncheck("#picture", force=True)
        page.uncheck("#ids", force=True)
        page.uncheck("#trails", force=True)
        frame = page.request.get(server.url + "api/latest").json()
        image = _canvas(page)
        height, width = image.shape[:2]
        scale = min(width / 640, height / 360)
        left, top = (width - 640 * scale) / 2, (height - 360 * scale) / 2
        for person, colour in zip(frame["people"], ("#4cc9f0", "#ffb84d"), strict=False):
            hip, knee = (np.array(person["keypoints"][k][:2]) for k in (11, 13))
            x, y = (hip + knee) / 2 * scale + (left, top)
            part = image[round(y) - 4 : round(y) + 5, round(x) - 4 : round(x) + 5]
            assert _near(part, colour).any()
        page.check("input[name=points][value=raw]", force=True)
        page.wait_for_timeout(200)
        assert np.abs(_canvas(page).astype(int) - image).max() > 50  # raw points lie elsewhere
        page.check("input[name=colour][value=identity]", force=True)
        page.wait_for_timeout(200)
        assert not _near(_canvas(page), "#4cc9f0").any()


def test_the_region_is_outlined_where_it_lies(browser: playwright.Browser) -> None:
    corners = np.array([(40, 30), (600, 20), (620, 340)])
    on_it = np.concatenate([corners, (corners + np.roll(corners, -1, axis=0)) // 2])
    with _serving(fps=0, region=corners.tolist()) as (server, _), _page(browser, server.url) as page:
        _wait_for_frame(page)
        page.uncheck("#picture", force=True)
        page.wait_for_timeout(200)
        image = _canvas(page)
        with page.expect_download() as snapshot:
            page.click("#snapshot")
        saved = cv2.imread(str(snapshot.value.path()))
        assert saved is not None
    height, width = image.shape[:2]
    scale = min(width / 640, height / 360)
    left, top = (width - 640 * scale) / 2, (height - 360 * scale) / 2
    shown = (on_it + 0.5) * scale + (left, top)
    for picture, points in ((image, shown), (saved, on_it)):
        grey = cv2.dilate(_near(picture, "#bebebe").astype(np.uint8), np.ones((5, 5)))
        assert all(grey[round(y), round(x)] for x, y in points)


def test_pause_snapshot_and_download(browser: playwright.Browser, tmp_path: Path) -> None:
    with _serving() as (server, run), _page(browser, server.url) as page:
        _wait_for_frame(page, above=30)
        page.check("input[name=colour][value=stage]", force=True)
        page.click("#pause")
        assert page.locator("#state").inner_text() == "paused"
        held, frames = page.evaluate(_READY), run.frames
        with page.expect_download() as snapshot:
            page.click("#snapshot")
        picture = cv2.imread(str(snapshot.value.path()))
        assert picture is not None
        assert picture.shape == (360, 640, 3)
        assert _near(picture, "#4cc9f0").sum() > 100
        assert snapshot.value.suggested_filename == f"walk.{held:06d}.png"
        page.wait_for_timeout(2500)  # longer than a trail
        with page.expect_download() as later:
            page.click("#snapshot")
        assert np.array_equal(cv2.imread(str(later.value.path())), picture)
        with page.expect_download() as stream:
            page.click("#download")
        path = tmp_path / stream.value.suggested_filename
        stream.value.save_as(path)
        assert [str(p) for p in validate(path)] == []
        assert len(list(StreamReader(path))) >= 30
        assert page.evaluate(_READY) == held
        page.keyboard.press("Escape")
        page.click("#pause")
        assert _wait_for_frame(page, above=held) > held
        assert run.frames > frames


def test_a_frozen_page_costs_the_other_nothing(browser: playwright.Browser) -> None:
    watch = """() => {
        globalThis.drawn = [];
        const note = () => drawn.push(Number(canvas.dataset.frameId));
        new MutationObserver(note).observe(canvas, { attributeFilter: ["data-frame-id"] });
    }"""
    freeze = """() => setTimeout(() => {
        const frames = () => {
            const ask = new XMLHttpRequest();
            ask.open("GET", "/api/status", false);  // nothing else happens in this page meanwhile
            ask.send();
            return JSON.parse(ask.responseText).runs[0].frames;
        };
        const last = frames() + 75;
        while (frames() < last);
    }, 0)"""
    with _serving() as (server, _), _page(browser, server.url) as frozen, _page(browser, server.url) as awake:
        for page in (frozen, awake):
            _wait_for_frame(page)
            page.evaluate(watch)
        frozen.evaluate(freeze)
        _until(frozen, "drawn.some((id, i) => id - drawn[i - 1] > 60)")  # it came back, at what is newest
        ids = np.array(frozen.evaluate("drawn"))
        before = ids[np.diff(ids).argmax()]
        assert sum(before < n < before + 60 for n in awake.evaluate("drawn")) >= 5
        assert server.hub.viewers == 2
    assert server.hub.runs[0].totals.dropped == 0


_STORAGE = {
    "broken": "localStorage.sharpose = '{'",
    "unknown": """localStorage.sharpose = '{"points": "x]", "colour": "rainbow", "boxes": 1, "ids": false}'""",
    "forbidden": 'Object.defineProperty(window, "localStorage", { get() { throw new DOMException("no"); } })',
}


@pytest.mark.parametrize("storage", _STORAGE)
def test_what_storage_holds_does_not_stop_the_page(browser: playwright.Browser, storage: str) -> None:
    with _serving() as (server, _), _page(browser, "about:blank") as page:
        page.context.add_init_script(f"if (location.protocol === 'http:') {_STORAGE[storage]};")
        page.goto(server.url)
        _wait_for_frame(page)
        assert page.is_checked("input[name=points][value=smooth]")
        assert page.is_checked("input[name=colour][value=side]")
        assert page.is_checked("#boxes")
        assert page.is_checked("#ids") == (storage != "unknown")  # what it knows it keeps
        page.check("input[name=points][value=raw]", force=True)
        assert page.is_checked("input[name=points][value=raw]")


def test_a_picture_that_is_decoded_late_is_not_shown(browser: playwright.Browser) -> None:
    slow = """const decode = createImageBitmap, wait = ms => new Promise(done => setTimeout(done, ms));
    globalThis.decoded = 0;
    globalThis.createImageBitmap = async blob => {
        const late = decoded++ % 2 === 0;
        const bitmap = await decode(blob);
        if (late) await wait(300);
        return bitmap;
    };
    globalThis.drawn = [];
    addEventListener("DOMContentLoaded", () => {
        const note = () => decoded > 6 && drawn.push(Number(canvas.dataset.frameId));
        new MutationObserver(note).observe(canvas, { attributeFilter: ["data-frame-id"] });
    });"""
    with _serving() as (server, _), _page(browser, "about:blank") as page:
        page.context.add_init_script(slow)
        page.goto(server.url)
        _until(page, "drawn.length > 15")
        ids = page.evaluate("drawn")
    assert ids == sorted(ids)


@pytest.mark.parametrize("address", ["", "wall"])
def test_a_record_that_comes_behind_its_picture_is_shown(browser: playwright.Browser, address: str) -> None:
    """Of the last frame of a run nothing would bring them together later."""
    slow = """const heard = Object.getOwnPropertyDescriptor(WebSocket.prototype, "onmessage");
    Object.defineProperty(WebSocket.prototype, "onmessage", {
        get: heard.get,
        set(take) {
            const late = this.url.includes("/skeletons");
            heard.set.call(this, take && late ? event => setTimeout(() => take.call(this, event), 600) : take);
        },
    });"""
    hub = Hub()
    with LiveServer(hub, Listen("127.0.0.1", 0)) as server, _page(browser, "about:blank") as page:
        run = Run(hub, live=True)
        run.step(5)
        page.context.add_init_script(slow)
        page.goto(server.url + address)
        _until(page, "document.querySelector('main canvas')?.dataset.frameId === '4'")
        run.end()


def test_several_sources_to_choose_from(browser: playwright.Browser) -> None:
    hub = Hub()
    with LiveServer(hub, Listen("127.0.0.1", 0)) as server, _page(browser, server.url) as page:
        runs = [Run(hub, stem=stem, live=True, people=people) for stem, people in (("hall", 1), ("door", 2))]
        for run in runs:
            run.step(5)
        _wait_for_frame(page)
        _until(page, "!sources.hidden && sources.value === 'hall' && source.textContent === 'hall.mp4'")
        runs[0].end()
        runs[1].step(5)
        _until(page, "sources.value === 'door' && source.textContent === 'door.mp4'")  # what goes on is shown
        page.select_option("#sources", "hall")
        _until(page, "source.textContent === 'hall.mp4' && list.children.length === 1")
        page.click("#pause")
        page.select_option("#sources", "door")
        _until(page, "source.textContent === 'door.mp4' && list.children.length === 2")
        _wait_for_frame(page)
        assert page.locator("#state").inner_text() == "paused"
        page.wait_for_timeout(500)
        with_picture = _canvas(page).astype(int)
        page.keyboard.press("p")
        page.wait_for_timeout(200)
        assert np.abs(_canvas(page) - with_picture).mean() > 2
        runs[1].end()


def test_all_sources_side_by_side(browser: playwright.Browser) -> None:
    hub = Hub()
    tile, asked = "document.querySelector('.tile[data-name={}]')", []
    with LiveServer(hub, Listen("127.0.0.1", 0)) as server, _page(browser, f"{server.url}wall") as page:
        page.on("websocket", lambda socket: asked.append(socket.url))
        _until(page, "state.textContent === '0 sources'")
        runs = [
            Run(hub, stem=stem, live=True, people=people) for stem, people in (("hall", 1), ("door", 2), ("yard", 3))
        ]
        for run in runs:
            run.step(5)
        for stem in ("hall", "door", "yard"):
            _until(page, f"{tile.format(stem)}?.querySelector('canvas').dataset.frameId === '4'")
        assert page.locator("#state").inner_text() == "3 sources"
        boxes = [page.locator(f".tile[data-name={stem}]").bounding_box() for stem in ("hall", "door", "yard")]
        assert [(box["x"] > 600, box["y"] > 400) for box in boxes if box] == [
            (False, False),
            (True, False),
            (False, True),
        ]
        assert "2 people" in page.locator(".tile[data-name=door]").inner_text()
        assert _tile(page, "yard").std() > 10  # a picture with people, not a ground
        assert ["small=1" in url for url in asked if "/view" in url] == [True] * 3
        runs[0].step(3)
        _until(page, f"{tile.format('hall')}.querySelector('canvas').dataset.frameId === '7'")
        runs[2].end()
        _until(page, f"{tile.format('yard')}.textContent === 'yardended'")
        page.click(".tile[data-name=door]")
        _wait_for_frame(page)
        assert page.url == f"{server.url}?source=door"
        assert page.locator("#list li").count() == 2
        page.select_option("#sources", "hall")
        _until(page, "source.textContent === 'hall.mp4'")
        page.reload()  # the address names what is shown
        _until(page, "source.textContent === 'hall.mp4' && list.children.length === 1")
        page.click("#all")
        _until(page, "document.querySelectorAll('.tile').length === 3")
        _until(page, f"{tile.format('door')}.querySelector('canvas').dataset.frameId === '4'")
        # Drawn as is chosen on the page, in another window too: here on black, in the colours of the sides.
        before, ground = _tile(page, "door"), "#2e323a"  # behind the people
        assert not _near(before, "#28aaff").any()
        assert _near(before, ground).mean() > 0.3
        with page.context.new_page() as other:
            other.goto(server.url)
            other.uncheck("#picture", force=True)
            other.check("input[name=colour][value=side]", force=True)
        page.wait_for_timeout(300)
        drawn = _tile(page, "door")
        assert _near(drawn, "#28aaff").sum() > 50
        assert _near(drawn, ground).mean() < 0.02
        for run in runs[:2]:
            run.end()


def test_a_wall_whose_server_is_away_says_so_and_comes_back(browser: playwright.Browser) -> None:
    hub = Hub()
    with LiveServer(hub, Listen("127.0.0.1", 0)) as server:
        context = browser.new_context()
        page = context.new_page()
        page.goto(f"{server.url}wall")
        Run(hub, stem="hall", live=True).step()
        _until(page, "state.textContent === '1 source'")
    _until(page, "state.textContent === 'connection lost'")
    with LiveServer(Hub(), Listen("127.0.0.1", int(server.url.rstrip("/").rpartition(":")[2]))):
        _until(page, "state.textContent === '0 sources' && !document.querySelector('.tile')")
    context.close()


@pytest.mark.parametrize(("address", "place"), [("", "notice"), ("wall", "document.querySelector('.tile span span')")])
def test_who_has_no_place_is_told_and_gets_the_next_one(
    browser: playwright.Browser, monkeypatch: pytest.MonkeyPatch, address: str, place: str
) -> None:
    monkeypatch.setattr("sharpose_rt.live.routes._MAX_SOCKETS", 0)
    with _serving() as (server, _), _page(browser, server.url + address) as page:
        _until(page, f"/too many viewers/i.test({place}?.textContent)")
        monkeypatch.setattr("sharpose_rt.live.routes._MAX_SOCKETS", 2)
        _until(page, "+document.querySelector('canvas').dataset.frameId > 0")
        _until(page, f"!/too many viewers/i.test({place}?.textContent)")


def test_a_source_that_comes_late_can_be_chosen(browser: playwright.Browser) -> None:
    hub = Hub()
    with LiveServer(hub, Listen("127.0.0.1", 0)) as server, _page(browser, server.url) as page:
        for stem in ("yard", "door"):
            hub.expect(stem, f"rtsp://{stem}/live", live=True, state=lambda: "connecting")
        Run(hub, stem="door", live=True).step()
        _wait_for_frame(page)
        _until(page, "sources.length === 2 && sources.value === 'door'")  # the one that is there is shown
        page.select_option("#sources", "yard")
        _until(page, "source.textContent === 'rtsp://yard/live' && state.textContent === 'waiting for the source'")
        assert page.locator("#notice").inner_text() == "Waiting for this source, which is not available yet."
        Run(hub, stem="yard", live=True, people=2).step()
        _until(page, "source.textContent === 'yard.mp4' && list.children.length === 2 && !notice.textContent")
        assert page.locator("#sources").input_value() == "yard"


def test_the_choice_of_a_source_stays_when_others_come(browser: playwright.Browser) -> None:
    hub = Hub()
    with LiveServer(hub, Listen("127.0.0.1", 0)) as server, _page(browser, server.url) as page:
        for number, stem in enumerate(("hall", "door", "yard"), 1):
            Run(hub, stem=stem, live=True).step()
            _until(page, f"sources.length === {number}")
            if stem == "door":
                page.focus("#sources")
                page.select_option("#sources", "door")
                _until(page, "source.textContent === 'door.mp4'")
        assert page.evaluate("[document.activeElement.id, sources.value]") == ["sources", "door"]


def test_long_names_leave_room_for_the_rest(browser: playwright.Browser) -> None:
    hub, inside = Hub(), "[...document.querySelectorAll('.tile > span')].map(e => e.lastChild.getBoundingClientRect())"
    hub.publishers.append(lambda: {"to": f"rtmp://{'a' * 80}/live", "state": "sending", "sent": 5, "dropped": 0})
    with LiveServer(hub, Listen("127.0.0.1", 0)) as server, _page(browser, server.url) as page:
        page.set_viewport_size({"width": 390, "height": 844})
        for letter in "ab":
            Run(hub, stem=letter * 200, live=True).step()
        _until(page, "!sources.hidden")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        assert page.evaluate("facts.lastChild.textContent") == "sending, 5 sent"
        assert page.evaluate("facts.lastChild.clientWidth") >= 100
        page.goto(f"{server.url}wall")
        _until(page, "document.querySelectorAll('.tile').length === 2")
        assert all(box["right"] <= 390 and box["width"] > 50 for box in page.evaluate(f"{inside}.map(b => b.toJSON())"))


def test_a_low_window_can_be_scrolled_to_all_sources(browser: playwright.Browser) -> None:
    hub, tiles = Hub(), "[...document.querySelectorAll('.tile')].map(e => e.getBoundingClientRect().toJSON())"
    with LiveServer(hub, Listen("127.0.0.1", 0)) as server, _page(browser, f"{server.url}wall") as page:
        page.set_viewport_size({"width": 1100, "height": 450})
        for number in range(9):
            Run(hub, stem=f"cam{number}", live=True).step()
        _until(page, "document.querySelectorAll('.tile').length === 9")
        boxes = page.evaluate(tiles)
        assert all(lower["top"] >= upper["bottom"] for upper, lower in zip(boxes, boxes[3:], strict=False))
        page.mouse.move(300, 300)
        page.mouse.wheel(0, 2000)
        _until(page, f"{tiles}[8].bottom <= innerHeight")


def test_somebody_is_chosen_with_the_keyboard_and_hides_nobody_when_gone(browser: playwright.Browser) -> None:
    with _serving(fps=0) as (server, run), _page(browser, server.url) as page:
        _wait_for_frame(page)
        page.check("input[name=colour][value=stage]", force=True)
        page.locator("#list li").nth(2).focus()
        page.keyboard.press("Enter")
        _until(page, "list.children[2].ariaSelected === 'true'")
        page.wait_for_timeout(200)
        assert _near(_canvas(page), "#4cc9f0").sum() < 50  # the others stand back
        run.people = 2
        run.step()
        _until(page, "list.children.length === 2")
        page.wait_for_timeout(200)
        assert _near(_canvas(page), "#4cc9f0").sum() > 200


def test_a_picture_that_was_switched_off_does_not_come_back_under_others(browser: playwright.Browser) -> None:
    with _serving() as (server, _), _page(browser, server.url) as page:
        last = _wait_for_frame(page)
        page.uncheck("#picture", force=True)
        _wait_for_frame(page, above=last + 30)
        page.click("#pause")
        before = _canvas(page)
        page.check("#picture", force=True)
        page.wait_for_timeout(300)
        assert np.abs(_canvas(page).astype(int) - before).mean() < 1


def test_a_paused_picture_stays_as_it_is_when_another_run_begins(browser: playwright.Browser) -> None:
    """The next file has another size, and another network's people."""
    with _serving(fps=0) as (server, run), _page(browser, server.url) as page:
        _wait_for_frame(page)
        page.click("#pause")
        _until(page, "state.textContent === 'paused'")
        before, held = _canvas(page), page.evaluate(_READY)
        run.end()
        other = Header("next.mp4", (360, 640), 25.0, HALPE26, header().model, "none", "sharpose", "kalman", "0")
        sink = StreamSink(None, other, replace(info("next"), size_wh=(360, 640)), live=True, taps=(server.hub,))
        for number in range(held + 3):
            sink.write(packet(number, people=0, size_wh=(360, 640)), "")
            page.wait_for_timeout(50)
        _until(page, "source.textContent === 'next.mp4' && facts.textContent.includes('360 × 640')")
        page.keyboard.press("b")
        page.keyboard.press("b")
        page.wait_for_timeout(300)
        assert page.evaluate(_READY) == held
        assert np.abs(_canvas(page).astype(int) - before).mean() < 1
        page.click("#pause")
        _until(page, "list.textContent === 'nobody in sight'")
        sink.close("complete", held + 3, 0)


def test_keys_work_after_a_button_was_clicked(browser: playwright.Browser) -> None:
    with _serving(fps=0) as (server, _), _page(browser, server.url) as page:
        _wait_for_frame(page)
        page.click("#pause")
        page.keyboard.press("b")
        assert not page.evaluate("boxes.checked")
        page.focus("#boxes")
        page.keyboard.press(" ")  # of the box that has the focus
        assert page.evaluate("boxes.checked")
        assert page.locator("#state").inner_text() == "paused"


def test_a_page_that_is_paused_for_long_keeps_no_trails(browser: playwright.Browser) -> None:
    follow = """async () => {
        const { Figures } = await import("/assets/figure.js");
        const figures = new Figures({ limbs: [], keypoints: ["left_hip"] });
        const people = n => [{ track_id: 1 + Math.floor(n / 100), keypoints: [[n, n, 1]] }];
        for (let n = 0; n < 5000; n++) figures.follow({ pts_s: n / 25, people: people(n) }, Math.min(n / 25, 3));
        return [...figures.trails.values()].map(trail => trail.length);
    }"""
    with _serving(fps=0) as (server, _), _page(browser, server.url) as page:
        assert sum(page.evaluate(follow)) in range(100, 104)  # two seconds up to what is shown, and the last two


def test_angles_in_the_browser_are_those_of_the_tables(browser: playwright.Browser) -> None:
    said = """async ([keypoints, points]) => {
        const { Figures } = await import("/assets/figure.js");
        const figures = new Figures({ limbs: [], keypoints }), texts = {};
        const context = { strokeText: () => {}, fillText: (text, x, y) => { texts[`${y}`] = text; } };
        figures.drawAngles(context, points, 1);
        return texts;
    }"""
    rng = np.random.default_rng(0)
    points = rng.uniform(0, 500, (len(HALPE26), 3))
    points[:, 2] = rng.uniform(0, 1, len(HALPE26))
    angles = joint_angles(points[None, :, :2], points[None, :, 2], HALPE26, min_score=0.3)[0]
    wanted = {
        round(float(points[HALPE26.keypoints.index(name), 1]), 6): f"{round(angle)}°"
        for name, angle in zip(angle_names(HALPE26), angles.tolist(), strict=True)
        if name != "trunk" and angle == angle
    }
    assert len(wanted) >= 3
    with _serving(fps=0) as (server, _), _page(browser, server.url) as page:
        texts = page.evaluate(said, [list(HALPE26.keypoints), points.tolist()])
        before = _canvas(page)
        page.check("#angles", force=True)
        page.wait_for_timeout(200)
        assert (_canvas(page) != before).any()
    assert {round(float(y), 6): text for y, text in texts.items()} == wanted


def test_trails_stay_where_people_went_when_the_camera_moves(browser: playwright.Browser) -> None:
    """Somebody stands still while the camera pans, zooms and turns: in the picture the trail is a point. It begins with
    the scene."""
    follow = """async () => {
        const { Figures } = await import("/assets/figure.js");
        const figures = new Figures({ limbs: [], keypoints: ["left_hip"] });
        const camera = [[1.01, -0.02, 7], [0.02, 1.01, -3]], points = [];
        let at = [100, 200], record;
        for (let n = 0; n < 20; n++) {
            if (n) at = camera.map(([a, b, c]) => a * at[0] + b * at[1] + c);
            const people = [{ track_id: 1, keypoints: [[...at, 1]] }];
            record = { pts_s: n / 25, people, ...(n ? { camera } : {}), ...(n == 4 ? { new_scene: true } : {}) };
            figures.follow(record, record.pts_s);
        }
        const note = (x, y) => points.push([x - at[0], y - at[1]]), nothing = () => {};
        const context = { moveTo: note, lineTo: note, beginPath: nothing, stroke: nothing };
        figures.drawTrails(context, record, 1, {});
        return points;
    }"""
    with _serving(fps=0) as (server, _), _page(browser, server.url) as page:
        points = page.evaluate(follow)
    assert len(points) == 2 * 15
    assert max(abs(value) for point in points for value in point) < 1e-6


@pytest.mark.parametrize("zoom", [1.005, 0.995])
def test_trails_outlast_a_camera_that_drives_on(browser: playwright.Browser, zoom: float) -> None:
    """Ten minutes of half a percent a frame are more than numbers hold."""
    follow = """async zoom => {
        const { Figures } = await import("/assets/figure.js");
        const figures = new Figures({ limbs: [], keypoints: ["left_hip"] });
        const camera = [[zoom, 0, 640 * (1 - zoom)], [0, zoom, 360 * (1 - zoom)]], points = [];
        let record;
        for (let n = 0; n < 15000; n++) {
            record = { pts_s: n / 25, people: [{ track_id: 1, keypoints: [[700, 400, 1]] }], ...(n ? { camera } : {}) };
            figures.follow(record, record.pts_s);
        }
        const note = (x, y) => points.push([x, y]), nothing = () => {};
        figures.drawTrails({ moveTo: note, lineTo: note, beginPath: nothing, stroke: nothing }, record, 1, {});
        return points;
    }"""
    with _serving(fps=0) as (server, _), _page(browser, server.url) as page:
        points = page.evaluate(follow, zoom)
    np.testing.assert_allclose(points[-1], (700, 400), atol=1e-3)
    np.testing.assert_allclose(points[0], (640 + 60 * zoom**50, 360 + 40 * zoom**50), atol=1e-3)


def test_who_has_been_gone_for_long_is_forgotten(browser: playwright.Browser) -> None:
    with _serving(fps=0) as (server, run), _page(browser, server.url) as page:
        for frame_id, age in ((5 * 25, "5 s"), (100 * 25, "100 s"), (300 * 25, "0 s")):
            last = _wait_for_frame(page)
            run.frames = frame_id
            run.step()
            _wait_for_frame(page, above=last)
            _until(page, f"document.querySelector('#list .age').textContent === '{age}'")


def test_a_connection_over_which_nothing_comes_is_given_up(
    browser: playwright.Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    with _serving(fps=0) as (server, _), _page(browser, server.url) as page:
        _wait_for_frame(page)
        monkeypatch.setattr("sharpose_rt.live.routes._STATUS_S", 1e3)  # as if the server had lost its power
        _until(page, "state.textContent === 'connection lost'")
        monkeypatch.undo()
        _until(page, "state.textContent === 'live' || state.textContent === 'no frames'")


def test_a_connection_over_which_something_comes_is_kept(
    browser: playwright.Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over a slow line the figures come late, behind a picture. Where nothing comes, a source on the wall asks anew."""
    monkeypatch.setattr("sharpose_rt.live.routes._STATUS_S", 1e3)
    asked: dict[tuple[str, int], list[str]] = {}
    with ExitStack() as stack:
        for address, fps in itertools.product(("", "wall"), (2, 0)):
            server, _ = stack.enter_context(_serving(fps=fps))
            page = stack.enter_context(_page(browser, "about:blank"))
            sockets = asked.setdefault((address, fps), [])
            page.on("websocket", lambda socket, sockets=sockets: sockets.append(socket.url))
            page.goto(server.url + address)
            _until(page, "document.querySelector('main canvas')?.dataset.frameId > 0")
        page.wait_for_timeout(8500)
    for (address, fps), sockets in asked.items():
        assert len(sockets) == 2 if fps else len(sockets) > 2, address


def test_nobody_waits_for_a_socket_that_does_not_open(browser: playwright.Browser) -> None:
    silent = """globalThis.begun = 0;
    globalThis.WebSocket = class {
        static OPEN = 1;
        readyState = 0;
        constructor() { begun += 1; }
        close() { this.onclose?.({ code: 1006 }); }
    };"""
    with _serving(fps=0) as (server, _), _page(browser, "about:blank") as page:
        page.context.add_init_script(silent)
        page.goto(server.url)
        _until(page, "begun === 4")


def test_a_wall_whose_server_falls_silent_or_wants_a_token_says_so(browser: playwright.Browser) -> None:
    with _serving() as (server, _), _page(browser, f"{server.url}wall") as page:
        _until(page, "state.textContent === '1 source'")
        page.route("**/api/status", lambda _: None)
        _until(page, "state.textContent === 'connection lost'")
    with _serving(TOKEN) as (server, _), browser.new_context() as context:
        page = context.new_page()
        page.goto(f"{server.url}wall?token={TOKEN}")
        _until(page, "state.textContent === '1 source'")
        context.clear_cookies()
        _until(page, "state.textContent.startsWith('a token is needed') && !document.querySelector('.tile')")


def test_other_sources_after_the_server_was_away(browser: playwright.Browser) -> None:
    hub, port = Hub(), 0
    with browser.new_context() as context:
        page = context.new_page()
        for names in (("hall", "door"), ("yard", "gate")):
            hub = Hub()
            with LiveServer(hub, Listen("127.0.0.1", port)) as server:
                if port == 0:
                    page.goto(server.url)
                    port = int(server.url.rstrip("/").rpartition(":")[2])
                runs = [Run(hub, stem=name, live=True) for name in names]
                for run in runs:
                    run.step(5)
                _until(page, f"[...sources.options].map(o => o.value).join() === '{','.join(names)}'")
                page.select_option("#sources", names[1])
                _until(page, f"source.textContent === '{names[1]}.mp4' && state.textContent === 'live'")
                if names[0] == "yard":
                    for run in runs:
                        run.end()


def test_a_page_finds_back_after_the_server_was_away(browser: playwright.Browser) -> None:
    port = 0
    with browser.new_context() as context:
        page = context.new_page()
        for state in ("ended", "lost"):
            hub = Hub()
            with LiveServer(hub, Listen("127.0.0.1", port)) as server:
                if port == 0:
                    page.goto(server.url)
                    port = int(server.url.rstrip("/").rpartition(":")[2])
                run = Run(hub, live=True)
                run.step(50)
                _wait_for_frame(page, above=48)
                _until(page, "state.textContent === 'live'")
                if state == "ended":
                    run.end()
                    _until(page, "document.body.dataset.state === 'ended'")
        _until(page, "document.body.dataset.state === 'lost'")


def test_a_page_has_room_for_so_much_of_a_crowd(browser: playwright.Browser, tmp_path: Path) -> None:
    def with_less_room(route: playwright.Route) -> None:
        answer = route.fetch()
        route.fulfill(response=answer, body=answer.text().replace("64 << 20", "20_000"))

    with browser.new_context(accept_downloads=True) as context:
        page = context.new_page()
        page.route("**/view.js", with_less_room)
        with LiveServer(hub := Hub(), Listen("127.0.0.1", 0)) as server:
            page.goto(server.url)
            run = Run(hub, live=True)
            for _ in range(30):
                run.step()
                page.wait_for_timeout(40)
            _wait_for_frame(page, above=25)
        with page.expect_download() as stream:  # the server is gone: what the page has
            page.click("#download")
        stream.value.save_as(path := tmp_path / "kept.skeletons.jsonl")
    assert [str(p) for p in validate(path)] == []
    assert 10_000 < path.stat().st_size < 25_000


def test_a_bad_token_gets_nothing(browser: playwright.Browser) -> None:
    socket_code = """path => new Promise(done => {
        const socket = new WebSocket(`ws://${location.host}${path}`), got = [];
        socket.onmessage = ({ data }) => got.push(data);
        socket.onclose = ({ code }) => done([code, got.length]);
    })"""
    with _serving(TOKEN) as (server, _), browser.new_context() as context:
        page = context.new_page()
        answer = page.goto(server.url + "?token=wrong")
        assert answer is not None
        assert answer.status == 401
        assert "token" in page.inner_text("body")
        assert page.locator("canvas").count() == 0
        for path in ("/skeletons", "/view", "/skeletons?token=wrong"):
            assert page.evaluate(socket_code, path) == [4401, 0]
        page.goto(server.url + f"?token={TOKEN}")
        assert page.url == server.url  # the secret is out of the address
        _wait_for_frame(page)
        assert page.evaluate("document.cookie") == ""  # and out of reach for scripts


@contextmanager
def _other_site() -> Iterator[tuple[str, Callable[[str], None]]]:
    """Address of another site than http://127.0.0.1, and what takes the page that it shows."""
    shown = [""]

    class Site(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(shown[0].encode())

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Site) as site, serving(site):
        yield f"http://localhost:{site.server_port}", lambda html: shown.__setitem__(0, html)


def test_a_link_on_another_site_leads_in(browser: playwright.Browser) -> None:
    with _serving(TOKEN) as (server, _), _other_site() as (address, show), browser.new_context() as context:
        show(f"<a id=first href='{server.url}?token={TOKEN}'>1</a><a id=later href='{server.url}'>2</a>")
        for link in ("#first", "#later"):
            page = context.new_page()
            page.goto(address)
            page.click(link)
            page.wait_for_url(server.url)
            _wait_for_frame(page)


@contextmanager
def _below_a_path(server: LiveServer, path: str) -> Iterator[str]:
    """The server below a path of a proxy, which takes it off."""
    there = urlsplit(server.url)

    class Proxy(StreamRequestHandler):
        def handle(self) -> None:
            with socket.create_connection((str(there.hostname), there.port or 0)) as server_side:
                back = threading.Thread(target=self._pass_on, args=(server_side, self.request))
                back.start()
                self._pass_on(self.request, server_side)
                back.join()

        def _pass_on(self, source: socket.socket, to: socket.socket) -> None:
            with suppress(OSError):
                while data := source.recv(1 << 16):
                    to.sendall(data.replace(f" {path}/".encode(), b" /", 1) if data.startswith(b"GET ") else data)
            with suppress(OSError):
                to.shutdown(socket.SHUT_RDWR)

    class Front(ThreadingTCPServer):
        daemon_threads = True
        block_on_close = False

    with Front(("127.0.0.1", 0), Proxy) as front, serving(front):
        yield f"http://127.0.0.1:{front.server_address[1]}{path}/"


def test_the_view_below_a_path_of_a_proxy(browser: playwright.Browser) -> None:
    with (
        _serving(TOKEN) as (server, _),
        _below_a_path(server, "/door") as url,
        _page(browser, f"{url}?token={TOKEN}&source=walk") as page,
    ):
        _wait_for_frame(page)
        assert page.url == f"{url}?source=walk"
        with page.expect_download() as saved:
            page.click("#download")
        assert validate(saved.value.path()) == []
        page.goto(f"{url}wall")
        _until(page, "document.querySelector('.tile canvas')?.dataset.frameId > 0")
        page.click(".tile")
        _wait_for_frame(page)
        assert page.url == f"{url}?source=walk"


def test_an_allowed_page_shows_the_pictures(browser: playwright.Browser) -> None:
    with _other_site() as (address, show), LiveServer(Hub(), Listen("127.0.0.1", 0, TOKEN, (address,))) as server:
        run = Run(server.hub, live=True)
        run.step()
        urls = [f"{server.url}{name}?token=correct+horse" for name in ("picture.jpg", "video.mjpg")]
        show("".join(f"<img crossorigin src='{url}'>" for url in urls))
        with browser.new_context() as context:
            page = context.new_page()
            page.goto(address, wait_until="commit")
            for _ in range(100):
                run.step()
                page.wait_for_timeout(50)
                if page.evaluate("[...document.images].map(image => image.naturalWidth).join()") == "640,640":
                    break
            else:
                raise AssertionError("the pictures never came")
        run.end()


def test_the_page_fits_a_phone(browser: playwright.Browser) -> None:
    with _serving() as (server, _), browser.new_context(viewport={"width": 390, "height": 844}) as context:
        page = context.new_page()
        page.goto(server.url)
        _wait_for_frame(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        assert io.BytesIO(page.screenshot()).getbuffer().nbytes > 10_000
