"""Any ultralytics model that finds people, by name or path."""

from __future__ import annotations

import inspect
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sharpose_rt.config import DetectorConfig
from sharpose_rt.detection.assets import find_model, import_ultralytics, model_plan
from sharpose_rt.detection.runtime import EAGER, Runtime
from sharpose_rt.detection.yolo import TASKS, Network, YoloDetector, module_network, person_classes
from sharpose_rt.errors import DetectorError

if TYPE_CHECKING:
    import torch

logger = logging.getLogger("sharpose_rt.detection")

EXPORT_SUFFIXES = (".onnx", ".torchscript", ".engine", "_openvino_model", "_ncnn_model", ".mlpackage")
PROGRAMS = (".torchscript", ".engine")
SUFFIXES = (".pt", ".yaml", ".yml", *EXPORT_SUFFIXES)


class UltralyticsDetector(YoloDetector):
    """A `.pt` checkpoint, an exported model, or an untrained `.yaml` architecture.

    A checkpoint is a pickle, which can run code as it is read. It is read with `torch.load(weights_only=True)` and
    ultralytics' own list of layer classes, so a file that asks for anything else is refused and none of its code runs.
    Exported models contain graphs, not pickles. But TensorRT engines are binaries for the GPU, and TorchScript may
    write files: a warning says that both must be trusted like a program.
    """

    def __init__(
        self, name: str, config: DetectorConfig, *, device: str = "cpu", offline: bool = False, runtime: Runtime = EAGER
    ) -> None:
        super().__init__(name, config, device, runtime)
        self.offline = offline

    def load(self) -> Network:
        """The network of `self.name`; raises DetectorError if it cannot be loaded or is not for people."""
        name = self.name.rstrip("/\\")
        if name.endswith((".yaml", ".yml")):
            return load_architecture(name, self.device)
        path = find_model(name, offline=self.offline)
        if path.name.endswith(EXPORT_SUFFIXES):
            return load_export(path, self.device)
        return load_checkpoint(path, self.device)


def load_architecture(name: str, device: str) -> Network:
    """An untrained network from ultralytics' or the user's model file; logs a warning, as its boxes are meaningless."""
    ultralytics = import_ultralytics()
    logger.warning("detector '%s' is an architecture without weights: its boxes are random", name)
    try:
        model_plan(name)  # refuses one that would run code
        module: Any = ultralytics.YOLO(name).model
    except Exception as error:  # a parser of free text may raise any kind
        raise DetectorError(
            f"detector '{name}' cannot be built: {_one_line(error)}; give an ultralytics model file such as "
            "yolo26n.yaml"
        ) from error
    names = {i: "person" if i == 0 else f"class{i}" for i in range(int(getattr(module.model[-1], "nc", 1)))}
    return module_network(module, names, name, device)


def load_checkpoint(path: Path, device: str) -> Network:
    """The network of a `.pt` file, read without running code from the file."""
    import_ultralytics()
    from ultralytics.nn.tasks import torch_safe_load

    if "safe_only" not in inspect.signature(torch_safe_load).parameters:
        raise DetectorError(
            f"detector '{path.name}' cannot be read safely by this version of ultralytics; run `pip install -U "
            "ultralytics`, or give an exported model (.onnx, _openvino_model)"
        )
    try:
        checkpoint, _ = torch_safe_load(str(path), safe_only=True)
        module = checkpoint.get("ema") or checkpoint["model"]
        names = {int(i): str(n) for i, n in dict(module.names).items()}
    except Exception as error:  # whatever a damaged or foreign file raises
        raise DetectorError(
            f"detector '{path}' cannot be read: {_one_line(error)}; give an ultralytics detect, pose or segment "
            "checkpoint, or export a model with your own classes (yolo export format=onnx)"
        ) from error
    return module_network(module, names, path.name, device)


def load_export(path: Path, device: str) -> Network:
    """The network of an exported model, run by ultralytics' AutoBackend."""
    import_ultralytics()
    if path.suffix in PROGRAMS:
        logger.warning("detector '%s' can do anything that a program can; use it only if you trust its source", path)
    import torch
    from ultralytics.nn.autobackend import AutoBackend

    try:
        backend: Any = (
            _TorchScript(path, device)
            if path.suffix == ".torchscript"
            else AutoBackend(str(path), device=torch.device(device), verbose=False)
        )
    except Exception as error:  # each runtime has its own errors
        raise DetectorError(
            f"detector '{path}' cannot be loaded: {_one_line(error)}; is its runtime installed (onnx and onnxruntime, "
            "openvino, tensorrt, ...), and was it exported for this machine?"
        ) from error
    task = backend.task or "detect"
    if task not in TASKS:
        raise DetectorError(f"detector '{path.name}' is a model for {task}; {', '.join(TASKS)} are accepted")
    if not backend.metadata.get("names"):
        raise DetectorError(
            f"detector '{path.name}' does not name its classes; export it with ultralytics (yolo export), which writes "
            "them into the model"
        )
    size = getattr(backend, "imgsz", None)
    dynamic = bool(backend.dynamic or backend.metadata.get("dynamic"))

    def run(pixels: torch.Tensor) -> Any:  # AutoBackend is a torch module, but a trace would not see its runtime
        if pixels.is_cuda:  # which has its own streams
            torch.cuda.current_stream(pixels.device).synchronize()
        return backend(pixels)

    return Network(
        run=run,
        class_count=len(backend.names),
        person_classes=person_classes(backend.names, path.name),
        end2end=bool(backend.end2end),
        device=backend.device if isinstance(backend.device, torch.device) else torch.device("cpu"),
        stride=max(32, int(backend.stride)),
        fixed_wh=None if dynamic or not size else (int(size[1]), int(size[0])),
        half=bool(backend.fp16),
    )


class _TorchScript:
    """A TorchScript model with AutoBackend's attributes: AutoBackend needs torchvision's compiled operators for it."""

    def __init__(self, path: Path, device: str) -> None:
        import torch

        extra = {"config.txt": ""}  # where ultralytics' export writes its metadata
        self.model = torch.jit.load(str(path), map_location=device, _extra_files=extra).eval()
        self.metadata = json.loads(extra["config.txt"] or "{}")
        arguments = self.metadata.get("args", {})
        self.names = {int(i): name for i, name in self.metadata.get("names", {}).items()}
        self.task = self.metadata.get("task")
        self.stride = self.metadata.get("stride", 32)
        self.imgsz = self.metadata.get("imgsz")
        self.end2end = bool(self.metadata.get("end2end") or arguments.get("nms"))
        self.dynamic = bool(arguments.get("dynamic"))
        self.fp16 = bool(arguments.get("half"))
        self.device = torch.device(device)

    def __call__(self, pixels: torch.Tensor) -> Any:
        return self.model(pixels)


def _one_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
