"""Torch modules as OpenVINO graphs: traced, so that no network is written twice, and kept in the user's cache.

A graph is kept under a hash of everything it was made from: the weights, the structure, the traced code, the shapes and
the versions. A change in any of them makes a new graph. If it has integer layers, the compiled form is kept too, under
a hash of the graph's hash, the hints and the processor: it loads in less than half the time and computes the same to
the last digit. For graphs of floats, compiling is as quick as loading.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import io
import logging
import math
import os
import sys
import warnings
import zlib
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import is_dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sharpose_rt.compute.precision import fastest_dtype
from sharpose_rt.errors import DeviceError, WeightsError
from sharpose_rt.machine.cache import cache_dir
from sharpose_rt.machine.packages import version
from sharpose_rt.machine.paths import is_file
from sharpose_rt.machine.process import settings_lock
from sharpose_rt.machine.processor import processor_key
from sharpose_rt.machine.whole_files import beside, on_disk, whole

log = logging.getLogger("sharpose_rt.compute.openvino_graphs")

KEPT, KEPT_BYTES = 16, 2 << 30
"""Limits of a graph folder in the cache. A network has three graphs, in int8 two more; a detector has one per picture
size, of 230 MB each for a large detector."""
COMPILED_BYTES = 256 << 20
"""Limit of the compiled graphs in the cache; the included pose network takes 23 MB per batch size."""
_NAME = "sharpose_rt"
"""Name under which a graph stores its hash."""
PRECISION_HINTS = {torch.float32: "f32", torch.bfloat16: "bf16"}
_unwritten: OrderedDict[str, Any] = OrderedDict()
"""Graphs with a dynamic batch that could not be written to the cache: a run reuses those of the measurement before."""
_OWN = Path(__file__).parents[1]
_CHECK = 4
"""Bytes of a checksum."""


def installed() -> bool:
    """Whether OpenVINO can be imported."""
    return importlib.util.find_spec("openvino") is not None


@cache
def openvino() -> tuple[Any, Any]:
    """The package and its core, made once.

    Raises:
        DeviceError: it is not installed, or does not load.
    """
    # Telemetry would report usage to a server, with an id kept in the home folder, and could not even load without a
    # home. If the package is missing, OpenVINO uses a stub that does nothing.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        import openvino as ov

        return ov, ov.Core()
    except (ImportError, RuntimeError) as error:
        raise DeviceError(
            f"OpenVINO cannot be used: {error}; pip install 'sharpose-rt[cpu]', or use --backend torch"
        ) from error


def besides_grids(dtype: torch.dtype) -> torch.dtype:
    """The precision of a graph's layers without integer grids: for int8 the fastest float type, else `dtype` itself."""
    return fastest_dtype() if dtype == torch.int8 else dtype


class Graph:
    """A compiled graph: tensors in, a list of tensors out, all on the CPU. Not for two threads at once.

    Args:
        model: with static inputs, a lane's share of the batch first; with one lane, outputs may have any length.
        dtype: the precision of multiplications.
        threads: of all lanes together.
        lanes: parts of a batch that run in parallel. Threads that share each layer wait for each other at its end and
            pass values from cache to cache; with a lane each, they wait only once per graph.
    """

    def __init__(self, model: Any, dtype: torch.dtype, threads: int, lanes: int = 1) -> None:
        hints = {
            "INFERENCE_PRECISION_HINT": PRECISION_HINTS[besides_grids(dtype)],
            "INFERENCE_NUM_THREADS": threads,
            # If pinned, the detector and the pose network would both run on the first core.
            "ENABLE_CPU_PINNING": False,
            **({"NUM_STREAMS": lanes} if lanes > 1 else {"PERFORMANCE_HINT": "LATENCY"}),
        }
        self._tensor, compiled = openvino()[0].Tensor, _compiled(model, hints)
        self._requests = [compiled.create_infer_request() for _ in range(lanes)]
        self._outputs = [
            None
            if port.partial_shape.is_dynamic
            else ((lanes * port.shape[0], *tuple(port.shape)[1:]), port.element_type.to_dtype())
            for port in compiled.outputs
        ]
        self._under_way: list[NDArray[Any]] = []  # memory of the requests, which continue after an interrupt

    def __call__(self, *tensors: Tensor) -> list[Tensor]:
        """The outputs in order, in separate memory."""
        if self._under_way:  # Ctrl-C, or another signal, interrupted the last call
            for request in self._requests:
                with contextlib.suppress(RuntimeError):  # errors of that call do not concern this one
                    request.wait()
        found = [None if known is None else np.empty(*known) for known in self._outputs]
        given = [tensor.contiguous().numpy() for tensor in tensors]
        self._under_way = [*given, *(array for array in found if array is not None)]
        ins = [self._shares(array) for array in given]
        outs = [[] if array is None else self._shares(array) for array in found]
        for lane, request in enumerate(self._requests):
            for number, shares in enumerate(ins):
                request.set_input_tensor(number, shares[lane])
            for number, shares in enumerate(outs):
                if shares:
                    request.set_output_tensor(number, shares[lane])
            request.start_async()
        for request in self._requests:
            request.wait()
        self._under_way = []
        return [torch.from_numpy(self._copied(n) if array is None else array) for n, array in enumerate(found)]

    def _copied(self, number: int) -> NDArray[Any]:
        """An output whose length is known only once it is computed."""
        return np.array(self._requests[0].get_output_tensor(number).data)

    def _shares(self, array: NDArray[Any]) -> list[Any]:
        """Each lane's share of a contiguous array, in the same memory."""
        rows = len(array) // len(self._requests)
        lanes = (array[n * rows : (n + 1) * rows] for n in range(len(self._requests)))
        return [self._tensor(part, shared_memory=True) for part in lanes]


def _compiled(model: Any, hints: dict[str, Any]) -> Any:
    """The compiled graph; one with integer layers comes from the cache if this processor has compiled it before."""
    _, core = openvino()
    if not (model.has_rt_info(_NAME) and any(op.get_type_name() == "FakeQuantize" for op in model.get_ops())):
        return core.compile_model(model, "CPU", hints)
    shapes = [str(port.partial_shape) for port in model.inputs]
    able = [str(core.get_property("CPU", name)) for name in ("FULL_DEVICE_NAME", "OPTIMIZATION_CAPABILITIES")]
    facts = (model.get_rt_info(_NAME).astype(str), shapes, sorted(hints.items()), able, processor_key(), _versions())
    path = cache_dir() / "compiled" / f"{hashlib.sha256(repr(facts).encode()).hexdigest()[:32]}.blob"
    try:
        data = path.read_bytes()
        os.utime(path)  # the least recently used are deleted first
        if zlib.crc32(data[_CHECK:]).to_bytes(_CHECK, "big") == data[:_CHECK]:
            return core.import_model(io.BytesIO(data[_CHECK:]), "CPU", hints)
    except (OSError, RuntimeError) as error:
        log.debug("%s is missing or unusable: %s", path, error)
    compiled = core.compile_model(model, "CPU", hints)
    _keep_compiled(compiled, path)
    return compiled


def _keep_compiled(compiled: Any, path: Path) -> None:
    """Writes it after its checksum, since OpenVINO accepts a damaged one; if that fails, it is compiled again."""
    try:
        data = compiled.export_model().getvalue()
        with whole(path) as part:
            part.write_bytes(zlib.crc32(data).to_bytes(_CHECK, "big") + data)
        _make_room(path.parent, (".blob",), COMPILED_BYTES)
    except (OSError, RuntimeError) as error:
        log.debug("%s was not kept: %s", path, error)


def read_graph(path: Path) -> Any:
    """The graph in an ONNX or OpenVINO file (.onnx, .xml).

    Raises:
        DeviceError: OpenVINO cannot be used.
        WeightsError: the file cannot be read.
    """
    try:
        _, core = openvino()
    except DeviceError as error:
        raise DeviceError(f"{path} needs OpenVINO, which cannot be used; pip install 'sharpose-rt[cpu]'") from error
    if not is_file(path):
        raise WeightsError(f"there is no file {path}; give the path of a .onnx file, or of a .xml file beside its .bin")
    try:
        with path.open("rb") as file:
            start = file.read(256).lstrip(b"\xef\xbb\xbf \t\r\n")
        if path.suffix.lower() == ".xml" and not start.startswith(b"<"):
            raise RuntimeError("it is not XML")  # OpenVINO would try its other formats and report on each
        return core.read_model(str(path))
    except (OSError, RuntimeError, UnicodeDecodeError) as error:  # its messages quote the file, which may not be text
        lines = [line for line in map(str.strip, str(error).splitlines()) if line]
        raise WeightsError(f"the network {path} cannot be read: {lines[-1] if lines else error:.200}") from error


def lengths(port: Any) -> list[int]:
    """The shape of an input or output, -1 for dynamic axes; [] if even the number of axes is unknown."""
    shape = port.partial_shape
    return [] if shape.rank.is_dynamic else [-1 if side.is_dynamic else side.get_length() for side in shape]


def said(shapes: Iterable[list[int]]) -> str:
    """Shapes for a message."""
    return ", ".join(str(["?" if size < 0 else size for size in shape]).replace("'", "") for shape in shapes)


def for_batch(model: Any, batch: int, dtype: torch.dtype, threads: int) -> Graph:
    """A graph with dynamic batch, compiled for `batch` rows, in as many lanes of equal rows and threads as possible."""
    lanes = math.gcd(batch, threads)
    return Graph(with_batch(model, batch // lanes), dtype, threads, lanes)


def traced(module: nn.Module, examples: Sequence[Tensor], *, dynamic_batch: bool = True) -> Any:
    """The graph of `module` for inputs like `examples`, from the cache if it was made before.

    Args:
        module: in evaluation mode, on the CPU, in float32.
        examples: the batch first; two rows or more if the batch is dynamic, as a batch of one may be folded away.
        dynamic_batch: leave the first axis of every input open; `with_batch` closes it.
    """
    folder = "graphs" if dynamic_batch else "graphs_of_one_size"  # photographs need many of these: a separate limit
    key = _key(module, examples, dynamic_batch)
    path = cache_dir() / folder / f"{key}.xml"
    kept = _kept(path, key) or _unwritten.get(key)
    if kept is not None:
        return kept
    ov, _ = openvino()
    types = {torch.uint8: ov.Type.u8, torch.float32: ov.Type.f32, torch.int64: ov.Type.i64}
    inputs = [(ov.PartialShape([-1 if dynamic_batch else len(e), *e.shape[1:]]), types[e.dtype]) for e in examples]
    with settings_lock, torch.no_grad(), warnings.catch_warnings(), _no_reports():
        warnings.simplefilter("ignore")  # torch warns about every Python number in the code
        module(*examples)  # what it computes for a new size, such as a detector's anchors, is constant in the trace
        # Traced here rather than by OpenVINO, which would run each graph twice more and load half of torch to compare.
        script = torch.jit.trace(module, tuple(examples), check_trace=False)
        model = ov.convert_model(script, input=inputs)
    _keep(model, path)
    kept = _kept(path, key)  # read back, as writing folds constants: later runs then compute the same digits
    if kept is None and dynamic_batch:  # those of one size, of which photographs need many, are made once per run
        _unwritten[key] = model
        if len(_unwritten) > KEPT:
            _unwritten.popitem(last=False)
    return kept or model


def _kept(path: Path, key: str) -> Any:
    """The graph in a cache file; None if the file is missing or damaged."""
    if not is_file(path):
        return None
    _, core = openvino()
    try:
        with contextlib.suppress(OSError):
            os.utime(path)  # the least recently used are deleted first
        model = core.read_model(path)
        model.set_rt_info(key, _NAME)
        return model
    except RuntimeError as error:
        log.debug("%s cannot be read: %s", path, error)
        return None


@contextlib.contextmanager
def _no_reports() -> Iterator[None]:
    """Stops OpenVINO's converter from reporting its use over the network, which it does unless it runs in a CI job."""
    before = os.environ.get("CI")
    os.environ["CI"] = "true"
    try:
        yield
    finally:
        if before is None:
            os.environ.pop("CI", None)
        else:
            os.environ["CI"] = before


def with_batch(model: Any, batch: int) -> Any:
    """A copy of a graph with dynamic batch that takes exactly `batch` rows: static shapes are fastest."""
    fixed = model.clone()
    fixed.reshape({port: [batch, *list(port.partial_shape)[1:]] for port in fixed.inputs})
    return fixed


def _keep(model: Any, path: Path) -> None:
    """Writes the graph, its data file first; if that fails, the next start converts again."""
    ov, _ = openvino()
    part = beside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        ov.save_model(model, part, compress_to_fp16=False)
        for written in (part.with_suffix(".bin"), part):
            on_disk(written)
        part.with_suffix(".bin").replace(path.with_suffix(".bin"))
        part.replace(path)
        _make_room(path.parent, (".xml", ".bin"), KEPT_BYTES, most=KEPT, spared=1)  # keep the one just made
    except (OSError, RuntimeError) as error:
        log.debug("%s was not kept: %s", path, error)
    finally:
        for left in (part, part.with_suffix(".bin")):
            with contextlib.suppress(OSError):
                left.unlink()


def _make_room(folder: Path, suffixes: tuple[str, ...], room: int, *, most: float = math.inf, spared: int = 0) -> None:
    """Deletes the least recently used entries beyond `room` bytes or `most` in number, but never the newest `spared`.

    An entry has one file for each suffix; the modification time of the first counts.
    """
    newest = sorted(folder.glob(f"*{suffixes[0]}"), key=lambda path: path.stat().st_mtime, reverse=True)
    for place, path in enumerate(newest):
        files = [file for file in map(path.with_suffix, suffixes) if file.exists()]
        room -= sum(file.stat().st_size for file in files)
        if place >= spared and (room < 0 or place >= most):
            for file in files:
                file.unlink(missing_ok=True)


def _key(module: nn.Module, examples: Iterable[Tensor], dynamic_batch: bool) -> str:
    shapes = [(tuple(example.shape), str(example.dtype)) for example in examples]
    facts = (repr(module), [_settings(part) for part in module.modules()], shapes, dynamic_batch, _versions())
    digest = hashlib.sha256(repr(facts).encode())
    for name, tensor in module.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().numpy().tobytes())
    for path in _sources(module):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:32]


def _settings(part: nn.Module) -> dict[str, str]:
    """What a module's code may read besides its parameters: plain values, and functions by their names."""
    found: dict[str, str] = {}
    for name, value in vars(part).items():
        if name.startswith("_") or isinstance(value, torch.Size):  # the last input's, as ultralytics' heads store it
            continue
        if isinstance(value, (bool, int, float, str, tuple, list, slice, type(None))) or is_dataclass(value):
            found[name] = repr(value)
        elif callable(value):
            found[name] = getattr(value, "__name__", "")
    return found


def _versions() -> list[str | None]:
    return [version(name) for name in ("torch", "openvino", "ultralytics")]


def _sources(module: nn.Module) -> list[Path]:
    """Our own source files that a trace of the module runs through: those in the folders of its parts' classes."""
    homes = {sys.modules[type(part).__module__].__file__ for part in module.modules()}
    folders = {Path(home).parent for home in homes if home and Path(home).is_relative_to(_OWN)}
    return sorted(path for folder in folders for path in folder.glob("*.py"))
