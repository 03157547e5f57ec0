"""A CUDA card on paper: what is written for one runs on the CPU, and mistakes that only a card would show are found.

`python -m tests.paper_cuda TESTS...` runs pytest, and `python -m tests.paper_cuda sharpose-rt COMMAND...` a command, on
a machine without a card, with PyTorch's build for the CPU and a C++ compiler. Tensors of `cuda:0` are PyTorch's own
with the CPU's memory (`paper_cuda.cpp`), so mixed devices raise what they raise on a card. On top of that

- each kernel is ordered by the stream that it is queued on, as vector clocks tell: one that reads or writes what
  another stream may still be at, and memory that goes back while another stream may still use it, are in `Card.races`;
- what is copied to pinned memory without waiting arrives when its event is waited for, and is rubbish until then;
- a graph repeats the kernels that it recorded on the memory that they had, and refuses what a card refuses to record;
- `Card.waits` tells where the CPU waits for the card, and `Card.launches` what it queues there: kernels and copies that
  are not in a graph, and graphs.

How fast a card is, its memory running out, and kernels of its own are beyond it.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any

import torch
import torch._dynamo
import torch._inductor.utils  # asks what torch.cuda has, before that is ours
from torch.utils import cpp_extension
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

Clock = dict[int, int]
"""What has happened, by stream: how many of its kernels."""
HERE = Path(__file__).with_suffix(".cpp")
CXX, PYTHON = os.environ.get("CXX", "c++"), Path(sysconfig.get_path("include"))
WAITS = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "_unique2", "unique_dim", "bincount"}
"""Kernels whose results the CPU has to see before it goes on."""


def missing() -> str | None:
    """Why there can be no card on paper here; None where there can."""
    if torch.version.cuda is not None or torch.version.hip is not None:
        return f"torch {torch.__version__} has kernels of a card's own"
    if sys.platform != "linux" or shutil.which(CXX) is None or not (PYTHON / "Python.h").is_file():
        return "no C++ compiler, or not Python's headers, to build it with; only Linux is known"
    return None


def _built() -> Any:
    """The module of `paper_cuda.cpp`, which is compiled when it is first wanted."""
    digest = hashlib.sha256(HERE.read_bytes() + torch.__version__.encode()).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"sharpose-paper-cuda-{os.getuid()}"
    folder.mkdir(exist_ok=True, mode=0o700)
    path = folder / f"paper_cuda_{digest}.so"
    if not path.is_file():
        part = folder / f"{os.getpid()}.part"
        places = [f"-isystem{place}" for place in (*cpp_extension.include_paths(), str(PYTHON))]
        libraries = [f"-L{place}" for place in cpp_extension.library_paths()]
        libraries += ["-lc10", "-ltorch_cpu", "-ltorch", "-ltorch_python"]
        command = [CXX, "-std=c++20", "-fPIC", "-shared", "-DTORCH_EXTENSION_NAME=paper_cuda", *places, str(HERE)]
        subprocess.run([*command, "-o", str(part), *libraries], check=True)
        part.replace(path)
    spec = importlib.util.spec_from_file_location("paper_cuda", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _merge(clock: Clock, other: Clock) -> None:
    for stream, ticks in other.items():
        clock[stream] = max(clock.get(stream, 0), ticks)


def _where(frame: FrameType | None) -> str:
    """Which lines of ours lead to a frame, the innermost first."""
    lines = []
    while frame and len(lines) < 5:
        _, found, name = frame.f_code.co_filename.rpartition("/sharpose_rt/")
        if found:
            lines.append(f"{name}:{frame.f_lineno}")
        frame = frame.f_back
    return " < ".join(lines)


class Stream:
    """As `torch.cuda.Stream`."""

    count = 0

    def __init__(self, device: object = None, priority: int = 0) -> None:
        self.device, self.priority = torch.device("cuda", 0), priority
        self.stream_id = self.cuda_stream = Stream.count
        Stream.count += 1
        self.clock: Clock = {}
        self.late: list[Callable[[], None]] = []  # copies to the CPU that are on their way
        card.streams.append(self)

    def tick(self) -> int:
        """The number of the kernel that is queued now; what the CPU has waited for lies before it."""
        _merge(self.clock, card.seen)
        self.clock[self.stream_id] = self.clock.get(self.stream_id, 0) + 1
        return self.clock[self.stream_id]

    def wait_stream(self, other: Stream) -> None:
        with card.lock:
            _merge(self.clock, other.clock)

    def wait_event(self, event: Event) -> None:
        with card.lock:
            _merge(self.clock, event.clock)

    def synchronize(self) -> None:
        card.wait("Stream.synchronize")
        with card.lock:
            card.arrive(self.clock, list(self.late))


class Event:
    """As `torch.cuda.Event`."""

    def __init__(self, enable_timing: bool = False, **_: object) -> None:
        self.clock: Clock = {}
        self.late: list[Callable[[], None]] = []
        self.at_s = 0.0

    def record(self, stream: Stream | None = None) -> None:
        with card.lock:
            stream = stream or card.current_stream()
            stream.tick()
            self.clock, self.late, self.at_s = dict(stream.clock), list(stream.late), time.perf_counter()

    def wait(self, stream: Stream | None = None) -> None:
        (stream or card.current_stream()).wait_event(self)

    def synchronize(self) -> None:
        card.wait("Event.synchronize")
        with card.lock:
            card.arrive(self.clock, list(self.late))

    def elapsed_time(self, end: Event) -> float:
        return 1e3 * (end.at_s - self.at_s)


class Memory:
    """Who used a piece of the card's memory last: kernels by stream, and whose it is."""

    def __init__(self, owner: Stream, pooled: bool) -> None:
        self.owner, self.pooled = owner, pooled
        self.write: tuple[int, int, str] | None = None
        self.uses: dict[int, tuple[int, str]] = {}
        self.kept_for: set[int] = set()


class Card:
    """The device: its streams and memory, and what was done wrong."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.streams: list[Stream] = []
        self.seen: Clock = {}
        self.memory: dict[int, Memory] = {}
        self.races: list[str] = []
        self.waits: list[str] = []
        self.launches: list[str] = []
        self.thread = threading.local()
        self.given_back: Callable[[], list[int]] = list

    def current_stream(self, _: object = None) -> Stream:
        return getattr(self.thread, "stream", self.streams[0])

    @contextlib.contextmanager
    def on_stream(self, stream: Stream | None) -> Iterator[None]:
        before = self.current_stream()
        self.thread.stream = stream or before
        try:
            yield
        finally:
            self.thread.stream = before

    @property
    def tape(self) -> list[tuple[Any, Any, Any, Any]] | None:
        """What this thread records."""
        return getattr(self.thread, "tape", None)

    def wait(self, name: str) -> None:
        """The CPU waits for the card."""
        if self.tape is not None:
            raise RuntimeError(f"CUDA error: operation not permitted when stream is capturing ({name})")
        self.waits.append(f"{name} at {_where(sys._getframe(2))}")

    def arrive(self, clock: Clock, late: list[Callable[[], None]]) -> None:
        """The CPU has waited for all that."""
        _merge(self.seen, clock)
        for stream in self.streams:
            for write in [write for write in stream.late if write in late]:
                stream.late.remove(write)
                write()

    def synchronize(self, _: object = None) -> None:
        self.wait("cuda.synchronize")
        with self.lock:
            for stream in self.streams:
                self.arrive(stream.clock, list(stream.late))

    def take_back(self) -> None:
        """Memory that nobody holds any more; its stream's next kernel may have it."""
        for address in self.given_back():
            memory = self.memory.pop(address, None)
            if memory is None or memory.pooled:  # a graph's own goes when the card is at rest
                continue
            for stream, (ticks, at) in memory.uses.items():
                known = max(memory.owner.clock.get(stream, 0), self.seen.get(stream, 0))
                if stream != memory.owner.stream_id and stream not in memory.kept_for and known < ticks:
                    self.races.append(f"memory goes back while stream {stream} may still be at it: {at}")

    def use(self, tensor: torch.Tensor, writes: bool, stream: Stream, ticks: int, name: str) -> None:
        """A kernel of that stream, the `ticks`th, reads or writes the tensor."""
        address = _address(tensor)
        if not address:
            return
        memory = self.memory.setdefault(address, Memory(stream, pooled=False))
        at = f"{name} at {_where(sys._getframe(2))}"
        others = memory.uses.items() if writes else [(memory.write[0], memory.write[1:])] if memory.write else []
        for other, (theirs, there) in others:
            if other != stream.stream_id and stream.clock.get(other, 0) < theirs:
                self.races.append(f"{at} does not wait for stream {other}: {there}")
        memory.uses[stream.stream_id] = ticks, at
        if writes:
            memory.write = stream.stream_id, ticks, at

    def begin(self, tensor: torch.Tensor, stream: Stream, ticks: int, name: str) -> None:
        """A kernel of that stream gave a tensor in memory of its own."""
        if address := _address(tensor):
            self.memory[address] = Memory(stream, pooled=self.tape is not None)
            if self.tape is None:
                self.use(tensor, True, stream, ticks, name)


card = Card()
Stream()  # the usual one


def _address(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


class Watch(TorchDispatchMode):
    """Every kernel of a thread passes here."""

    def __torch_dispatch__(self, func: Any, types: object, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        theirs = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        ours = [x for x in theirs if x.is_cuda]
        device = torch.device(kwargs["device"]).type if kwargs.get("device") is not None else ""
        if not ours and device != "cuda":
            return func(*args, **kwargs)
        if torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd"):
            with self:
                made = func.decompose(*args, **kwargs)  # in inference mode nobody has taken it apart before
            if made is not NotImplemented:
                return made
        name, stream = func._schema.name.removeprefix("aten::"), card.current_stream()
        by_mask = name.startswith("index") and any(x.dtype == torch.bool for x in theirs[1:])
        if name in WAITS or by_mask or (name.startswith("index") and any(x.dim() and not x.is_cuda for x in theirs)):
            card.wait(name)
        if name in ("copy_", "_to_copy") and (place := self._across(func, args, kwargs, device)) is not None:
            return place
        with card.lock:
            card.take_back()
            ticks = stream.tick()
            if card.tape is None:
                written = _written(func, args, kwargs)
                for tensor in ours:
                    card.use(tensor, id(tensor) in written, stream, ticks, name)
            if name in WAITS or by_mask:
                card.arrive(stream.clock, list(stream.late))
        out = func(*args, **kwargs)
        if card.tape is not None:
            card.tape.append((func, args, kwargs, out))
        elif not func.is_view and "empty" not in name and "view" not in name:
            card.launches.append(name)
        with card.lock:
            known = {_address(tensor) for tensor in ours}
            card.take_back()
            for tensor in tree_leaves(out):
                if isinstance(tensor, torch.Tensor) and tensor.is_cuda and _address(tensor) not in known:
                    card.begin(tensor, stream, ticks, name)
        return out

    @staticmethod
    def _across(func: Any, args: Any, kwargs: Any, device: str) -> torch.Tensor | None:
        """Waits where a copy between card and CPU does; one that nobody waits for is put off, and its place given."""
        into = func._schema.name == "aten::copy_"
        source, place = (args[1], args[0]) if into else (args[0], None)
        goes_to_cpu = not place.is_cuda if place is not None else device == "cpu"
        free = bool(kwargs.get("non_blocking") or (into and len(args) > 2 and args[2]))
        stream = card.current_stream()
        if source.is_cuda and goes_to_cpu:
            if not (free and place is not None and place.is_pinned()):
                card.wait(func._schema.name)
                with card.lock:
                    card.arrive(stream.clock, list(stream.late))
                return None
            with card.lock:
                card.use(source, False, stream, stream.tick(), "copy to the CPU")
            with _disable_current_modes():
                value = source.cpu()
                place.view(torch.uint8).fill_(0xAB) if place.dim() else place.fill_(0)
            stream.late.append(lambda: _put(place, value))
            return place
        if not source.is_cuda and source.dim() and not (free and source.is_pinned()):
            card.wait(f"{func._schema.name} from the CPU")
        return None


def _put(place: torch.Tensor, value: torch.Tensor) -> None:
    with _disable_current_modes():
        place.copy_(value)


def _written(func: Any, args: Any, kwargs: Any) -> set[int]:
    """Identities of the tensors that a kernel writes to."""
    given = [*zip(func._schema.arguments, args, strict=False)]
    given += [(one, kwargs[one.name]) for one in func._schema.arguments if one.name in kwargs]
    return {
        id(tensor)
        for one, value in given
        if one.alias_info is not None and one.alias_info.is_write
        for tensor in tree_leaves(value)
    }


class Graph:
    """As `torch.cuda.CUDAGraph`."""

    def __init__(self) -> None:
        self.tape: list[tuple[Any, Any, Any, Any]] = []

    def replay(self) -> None:
        card.launches.append("graph")
        with card.lock:
            card.take_back()
            stream = card.current_stream()
            ticks = stream.tick()
            for func, args, kwargs, out in self.tape:
                written = _written(func, args, kwargs) | {id(x) for x in tree_leaves(out) if not func.is_view}
                for tensor in tree_leaves((args, kwargs, out)):
                    if isinstance(tensor, torch.Tensor) and tensor.is_cuda:  # constants are read by other graphs too
                        card.use(tensor, id(tensor) in written, stream, ticks, "replay")
        with _disable_current_modes():
            for func, args, kwargs, out in self.tape:
                for place, value in zip(tree_leaves(out), tree_leaves(func(*args, **kwargs)), strict=True):
                    if isinstance(place, torch.Tensor) and place.data_ptr() != value.data_ptr():
                        place.copy_(value)


@contextlib.contextmanager
def _record(graph: Graph, pool: object = None, stream: Stream | None = None, **_: object) -> Iterator[None]:
    with card.on_stream(stream or Stream()):
        card.thread.tape = graph.tape
        try:
            yield
        finally:
            card.thread.tape = None


def install() -> None:
    """From here on this process has the card, and every thread that begins is watched."""
    card.given_back = _built().given_back
    facts = SimpleNamespace(name="paper", major=9, minor=0, total_memory=16 << 30, multi_processor_count=8)
    ours = {
        "Stream": Stream,
        "Event": Event,
        "CUDAGraph": Graph,
        "graph": _record,
        "stream": card.on_stream,
        "current_stream": card.current_stream,
        "default_stream": lambda _=None: card.streams[0],
        "synchronize": card.synchronize,
        "device": lambda _: contextlib.nullcontext(),
        "get_device_properties": lambda _=0: facts,
        "get_device_name": lambda _=0: facts.name,
        "get_device_capability": lambda _=0: (facts.major, facts.minor),
        "get_rng_state": lambda _=None: torch.get_rng_state(),
        "set_rng_state": lambda state, _=None: torch.set_rng_state(state),
        **dict.fromkeys(("is_available", "is_initialized", "_is_compiled", "is_bf16_supported"), lambda *_: True),
        **dict.fromkeys(("device_count", "max_memory_reserved", "max_memory_allocated"), lambda *_: 1),
        "current_device": lambda: 0,
        "mem_get_info": lambda _=None: (8 << 30, 16 << 30),
        **dict.fromkeys(
            ("_lazy_init", "set_device", "empty_cache", "reset_peak_memory_stats", "manual_seed_all"), lambda *_: None
        ),
    }
    for name, value in ours.items():
        setattr(torch.cuda, name, value)
    torch.version.cuda = "13.0"  # type: ignore[reportAttributeAccessIssue]
    torch.Tensor.record_stream = lambda self, stream: card.memory[_address(self)].kept_for.add(stream.stream_id)  # type: ignore[method-assign]
    clone = torch.UntypedStorage.clone
    torch.UntypedStorage.clone = lambda self: _clone(self) if self.device.type == "cuda" else clone(self)  # type: ignore[method-assign]

    run = threading.Thread.run

    def watched(self: threading.Thread) -> None:
        with Watch():
            run(self)

    threading.Thread.run = watched  # type: ignore[method-assign]
    Watch().__enter__()


def _clone(storage: torch.UntypedStorage) -> torch.UntypedStorage:
    return torch.empty(storage.nbytes(), dtype=torch.uint8, device="cuda").untyped_storage().copy_(storage)


def main(arguments: list[str]) -> int:
    """Run pytest, or a command of ours, on the card; fails where it finds a race, too."""
    if reason := missing():
        print(f"no card on paper: {reason}")
        return 2
    install()
    if arguments[:1] == ["sharpose-rt"]:
        from sharpose_rt.cli import main as command

        code = command(arguments[1:])
    else:
        import pytest

        code = int(pytest.main(["-n", "0", "-p", "no:cacheprovider", *arguments]))
    for race in sorted(set(card.races)):
        print("race:", race)
    return code or bool(card.races)


if __name__ == "__main__":
    from tests import paper_cuda  # the one that tests import, too

    sys.exit(paper_cuda.main(sys.argv[1:]))
