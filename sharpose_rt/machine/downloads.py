"""Files from the network: written completely or not at all, and never waited for indefinitely."""

from __future__ import annotations

import http.client
import threading
import urllib.error
import urllib.request
from pathlib import Path

from sharpose_rt.machine.whole_files import whole

ANSWER_TIMEOUT_S = 5.0
"""Longest time until the server answers, including name look-up and redirects."""
STALL_TIMEOUT_S = 10.0
"""A download that receives nothing for this long has failed."""


class DownloadError(Exception):
    """A file cannot be downloaded; the caller knows what to advise."""


def download(url: str, path: Path) -> None:
    """Downloads `url` to `path`, completely or not at all.

    Raises:
        DownloadError: no answer within 5 s, a stall of 10 s, a short file, or an unwritable folder.
    """
    try:
        with whole(path) as part, _answer(url) as response, part.open("wb") as file:
            expected = response.headers.get("Content-Length")
            while block := response.read(1 << 18):
                file.write(block)
            if expected is not None and file.tell() != int(expected):
                raise DownloadError(f"it ended after {file.tell()} of {expected} bytes")
    except (OSError, ValueError, http.client.HTTPException, DownloadError) as error:
        raise DownloadError(f"'{path.name}' cannot be downloaded from {url}: {error}") from error


def _answer(url: str) -> http.client.HTTPResponse:
    """The opened response, or TimeoutError after 5 s.

    A name look-up has no time limit and cannot be interrupted, so it runs in a thread. The thread is a daemon, because
    after a timeout it holds nothing and must not delay the end of the program.
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
