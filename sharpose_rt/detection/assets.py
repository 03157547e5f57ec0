"""Where ultralytics models come from: files, the cache, the ultralytics releases."""

from __future__ import annotations

import contextlib
import http.client
import logging
import os
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from uuid import uuid4

from sharpose_rt.config.places import cache_dir
from sharpose_rt.errors import DetectorError

logger = logging.getLogger("sharpose_rt.detection")

RELEASE_URL = "https://github.com/ultralytics/assets/releases/download/v8.4.0/"
ANSWER_TIMEOUT_S = 5.0
"""The server must have answered by then, name look-up and redirects included."""
STALL_TIMEOUT_S = 10.0
"""A download that brings nothing for so long has failed."""
_import_lock = threading.Lock()


def import_ultralytics() -> ModuleType:
    """The ultralytics package, imported without its side effects.

    On import it writes a settings folder into the home directory (ours goes into the cache, unless YOLO_CONFIG_DIR is
    set), asks name servers whether there is a network (up to half a minute where they do not answer), reports usage
    if there is one, and later installs packages it misses. Its environment switches are read on import only, so they
    are put back afterwards.
    """
    with _import_lock:
        os.environ.setdefault("YOLO_CONFIG_DIR", str(cache_dir() / "ultralytics"))
        with _environment(YOLO_OFFLINE="true", YOLO_AUTOINSTALL="false", YOLO_VERBOSE="false"):
            import ultralytics
            import ultralytics.utils  # reads the switches
    return ultralytics


@contextlib.contextmanager
def _environment(**values: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def find_model(name: str, *, offline: bool = False) -> Path:
    """The file (or exported folder) of a model: as given, else from the cache, else downloaded into it.

    Raises:
        DetectorError: nothing is there; the message lists what was tried.
    """
    given = Path(name).expanduser()
    cached = cache_dir() / "models" / given.name
    tried = [given] if given.parent != Path() else [given, cached]
    for path in tried:
        if path.exists():
            return path.resolve()
    searched = " or ".join(f"'{path}'" for path in tried)
    if not _downloadable(name):
        raise DetectorError(
            f"detector '{name}' is not there: no {searched}, and no release of ultralytics has that name; "
            "give a path, a released name such as yolo26n.pt, or --detector bundled"
        )
    if offline:
        raise DetectorError(
            f"detector '{name}' is not there: no {searched}, and --offline forbids its download; "
            "put the file there, give a path, or use --detector bundled"
        )
    logger.info("downloading %s from %s", name, RELEASE_URL)
    download(RELEASE_URL + given.name, cached)
    return cached


def _downloadable(name: str) -> bool:
    if Path(name).parent != Path() or not name.endswith((".pt", ".onnx")):
        return False
    import_ultralytics()
    from ultralytics.utils.downloads import GITHUB_ASSETS_NAMES

    return name in GITHUB_ASSETS_NAMES


def download(url: str, path: Path) -> None:
    """Put what `url` holds at `path`, whole or not at all.

    Raises:
        DetectorError: no answer within 5 s, a stall of 10 s, a short file, an unwritable folder.
    """
    part = path.with_name(f".{path.name}.{uuid4().hex}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _answer(url) as response, part.open("wb") as file:
            expected = response.headers.get("Content-Length")
            while block := response.read(1 << 18):
                file.write(block)
            if expected is not None and file.tell() != int(expected):
                raise DetectorError(f"it ended after {file.tell()} of {expected} bytes")
        part.replace(path)
    except (OSError, ValueError, http.client.HTTPException, DetectorError) as error:
        raise DetectorError(
            f"'{path.name}' cannot be downloaded from {url}: {error}; use --detector bundled (or --offline, which "
            f"takes it), or put the file at '{path}' or give its path"
        ) from error
    finally:
        part.unlink(missing_ok=True)


def _answer(url: str) -> http.client.HTTPResponse:
    """The opened response, or TimeoutError after 5 s.

    A name look-up has no time limit of its own and cannot be interrupted, so it is waited for in a thread; that one
    is a daemon, because after a time-out it holds nothing and must not delay the end of the program.
    """
    answers: list[http.client.HTTPResponse | Exception] = []
    lock, given_up = threading.Lock(), threading.Event()

    def ask() -> None:
        try:
            answer = urllib.request.urlopen(url, timeout=STALL_TIMEOUT_S)
        except (OSError, ValueError, http.client.HTTPException) as error:
            if isinstance(error, urllib.error.HTTPError):
                error.close()  # it holds the connection
            answer = error
        with lock:
            if given_up.is_set() and not isinstance(answer, Exception):
                answer.close()
            answers.append(answer)

    thread = threading.Thread(target=ask, name="sharpose-download", daemon=True)
    thread.start()
    thread.join(ANSWER_TIMEOUT_S)
    with lock:
        if not answers:
            given_up.set()
            raise TimeoutError(f"no answer within {ANSWER_TIMEOUT_S:g} s")
    if isinstance(answers[0], Exception):
        raise answers[0]
    return answers[0]
