"""Where ultralytics models come from: files, the cache, the ultralytics releases."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np

from sharpose_rt.errors import DetectorError
from sharpose_rt.machine import downloads
from sharpose_rt.machine.cache import cache_dir
from sharpose_rt.machine.paths import exists, expanded
from sharpose_rt.machine.process import settings_lock

logger = logging.getLogger("sharpose_rt.detection")

RELEASE_URL = "https://github.com/ultralytics/assets/releases/download/v8.4.0/"
_ACTIVATION = re.compile(r"(torch\.)?nn\.\w+\([\w\s.,=+-]*\)")


def import_ultralytics() -> ModuleType:
    """The ultralytics package, imported without its side effects.

    On import it writes a settings folder into the home directory (here into the cache, unless YOLO_CONFIG_DIR is set),
    queries name servers to see whether there is a network (up to half a minute if they do not answer), reports usage if
    there is one, and later installs missing packages. Its environment switches are read only on import, so they are
    restored afterwards, and so is what it changes for the whole process: environment variables, which child processes
    would inherit, how numpy and torch print, warning filters, OpenCV's threads and `torch.save`.
    """
    with settings_lock:
        os.environ.setdefault("YOLO_CONFIG_DIR", str(cache_dir() / "ultralytics"))
        with _unchanged():
            os.environ.update(YOLO_OFFLINE="true", YOLO_AUTOINSTALL="false", YOLO_VERBOSE="false")
            import ultralytics
            import ultralytics.utils  # reads the switches
    return ultralytics


@contextlib.contextmanager
def _unchanged() -> Iterator[None]:
    """Restores the state of the process after the block."""
    import torch  # here, as given boxes do not need it
    from torch._tensor_str import PRINT_OPTS

    environment, threads, save = dict(os.environ), cv2.getNumThreads(), torch.save
    numpy_prints, torch_prints = np.get_printoptions(), dict(vars(PRINT_OPTS))
    try:
        with warnings.catch_warnings():
            yield
    finally:
        for name in os.environ.keys() - environment:
            del os.environ[name]
        os.environ.update(environment)
        np.set_printoptions(**numpy_prints)
        torch.set_printoptions(**torch_prints)
        cv2.setNumThreads(threads)
        torch.save = save


def model_plan(name: str) -> dict[str, Any]:
    """The content of a model file (.yaml) of the user or of ultralytics, if it does not run code.

    Raises:
        ValueError: ultralytics would evaluate more than a torch layer; and whatever else its parser raises.
    """
    import_ultralytics()
    from ultralytics.nn.tasks import yaml_model_load

    plan: dict[str, Any] = yaml_model_load(name)
    activation = plan.get("activation")  # ultralytics evaluates it
    if activation and not _ACTIVATION.fullmatch(str(activation).strip()):
        raise ValueError(f"its activation is {str(activation)!r:.120}; only a layer such as nn.SiLU() is accepted")
    return plan


def find_model(name: str, *, offline: bool = False) -> Path:
    """The file (or exported folder) of a model: as given, else from the cache, else downloaded into the cache.

    Raises:
        DetectorError: it is not found; the message lists what was tried.
    """
    given = expanded(name)
    cached = cache_dir() / "models" / given.name
    tried = [given] if given.parent != Path() else [given, cached]
    for path in tried:
        if exists(path):
            return path.resolve()
    searched = " or ".join(f"'{path}'" for path in tried)
    if not _downloadable(name):
        raise DetectorError(
            f"detector '{name}' was not found: no {searched}, and no ultralytics release has that name; give a path, a "
            "released name such as yolo26n.pt, or --detector bundled"
        )
    if offline:
        raise DetectorError(
            f"detector '{name}' was not found: no {searched}, and --offline forbids downloading it; put the file "
            "there, give a path, or use --detector bundled"
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
    """Download `url` to `path`, completely or not at all.

    Raises:
        DetectorError: see `downloads.download`.
    """
    try:
        downloads.download(url, path)
    except downloads.DownloadError as error:
        raise DetectorError(
            f"{error}; use --detector bundled (or --offline, with which 'auto' takes it), put the file at '{path}', or "
            "give its path"
        ) from error
