"""Creates the detector that a configuration names."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from sharpose_rt.config import DetectorConfig
from sharpose_rt.config.checks import BOX_FILE_SUFFIXES, NETWORK_FILE_SUFFIXES, is_boxes_file, is_network_file
from sharpose_rt.detection.boxes import BoxFileDetector, FullFrameDetector
from sharpose_rt.detection.bundled import BundledDetector
from sharpose_rt.detection.file_detector import FileDetector, is_ultralytics_export
from sharpose_rt.detection.protocol import Detector
from sharpose_rt.detection.region import RegionDetector
from sharpose_rt.detection.runtime import EAGER, Runtime
from sharpose_rt.detection.ultralytics_model import SUFFIXES, UltralyticsDetector
from sharpose_rt.errors import ConfigError, DetectorError
from sharpose_rt.types import Detections, Frame

logger = logging.getLogger("sharpose_rt.detection")

DEFAULT_MODEL = "yolo26n.pt"
"""The first choice of `auto`: small, fast, and without suppression."""
_ALL = 10_000


def create_detector(
    config: DetectorConfig, *, device: str = "cpu", offline: bool = False, runtime: Runtime = EAGER
) -> Detector:
    """The detector that `config.name` names; it loads nothing before `open`.

    Args:
        config: name, thresholds, input size and region.
        device: 'cpu', 'cuda' or 'cuda:N'.
        offline: download nothing.
        runtime: what runs its network on the CPU, if it is a torch module.

    Raises:
        DetectorError: no detector has that name.
        ConfigError: an option for another project's network is given to a detector of another kind.
    """
    if config.region and config.name != "full":
        whole = replace(config, region=(), max_people=max(config.max_people, _ALL))  # most may be outside
        inner = create_detector(whole, device=device, offline=offline, runtime=runtime)
        return RegionDetector(inner, config.polygon, config.max_people, looks=not is_boxes_file(config.name))
    name = config.name
    told = config.pixels != "auto" or config.person_class is not None
    if is_network_file(name) and (told or not is_ultralytics_export(name)):
        return FileDetector(name, config, runtime)
    if told:
        raise ConfigError(
            "detector.pixels and person_class apply only to another project's network "
            f"({', '.join(NETWORK_FILE_SUFFIXES)}), but the detector is '{config.name}'; omit them"
        )
    if name == "auto":
        return AutoDetector(config, device=device, offline=offline, runtime=runtime)
    if name == "bundled":
        return BundledDetector(config, device=device, runtime=runtime)
    if name.lower().endswith(".safetensors"):  # as `train-detector` writes
        return BundledDetector(config, device=device, weights=Path(name), runtime=runtime)
    if name == "full":
        return FullFrameDetector(config.polygon)
    if is_boxes_file(name):
        return BoxFileDetector(name, config)
    if not Path(name).suffix and not name.rstrip("/\\").endswith(SUFFIXES):
        name += ".pt"  # people type `yolo26n`
    if not name.rstrip("/\\").endswith(SUFFIXES):
        raise DetectorError(
            f"detector '{config.name}' is of no known kind; 'auto', 'bundled', 'full', weights from `train-detector` "
            f"(.safetensors), an ultralytics model ({', '.join(SUFFIXES)}), another project's network "
            f"({', '.join(NETWORK_FILE_SUFFIXES)}) or a boxes file ({', '.join(BOX_FILE_SUFFIXES)}) is accepted"
        )
    return UltralyticsDetector(name, config, device=device, offline=offline, runtime=runtime)


class AutoDetector:
    """An ultralytics model if available, else the bundled detector; `name` says which after `open`."""

    _unreachable = ""
    """Why a download failed; this process does not try another, so as to wait for the timeout only once."""

    def __init__(
        self, config: DetectorConfig, *, device: str = "cpu", offline: bool = False, runtime: Runtime = EAGER
    ) -> None:
        self.name = "auto"
        self.runtime = runtime
        self.config = config
        self.device = device
        self.offline = offline
        self._chosen: Detector | None = None

    def open(self) -> None:
        """Choose and load a detector, and log the choice and its reason."""
        if self._chosen is None:
            self._chosen = self._choose()
            self.name = self._chosen.name
        else:
            self._chosen.open()

    @property
    def closest(self) -> int:
        """See `Detector`."""
        return 0 if self._chosen is None else self._chosen.closest

    def detect(self, frame: Frame, *, look: int = 0) -> Detections:
        """People in the frame, as the chosen detector finds them."""
        if self._chosen is None:
            raise DetectorError("detector 'auto' is not open; call open() first")
        return self._chosen.detect(frame, look=look)

    def close(self) -> None:
        """Release the chosen detector; `name` still says which it was."""
        if self._chosen is not None:
            self._chosen.close()
            self._chosen = None

    def _choose(self) -> Detector:
        offline = self.offline or bool(AutoDetector._unreachable)
        options = {"device": self.device, "runtime": self.runtime}
        model = UltralyticsDetector(DEFAULT_MODEL, self.config, offline=offline, **options)
        try:
            model.open()
        except DetectorError as error:
            if not offline:
                AutoDetector._unreachable = str(error)
            bundled = BundledDetector(self.config, **options)
            bundled.open()
            level = logging.INFO if self.offline else logging.WARNING
            reason = error if self.offline else AutoDetector._unreachable
            logger.log(level, "detector: %s, because %s", bundled.name, reason)
            return bundled
        logger.info("detector: %s, found or downloaded", model.name)
        return model
