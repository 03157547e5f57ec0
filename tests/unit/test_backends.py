"""Backends give what torch gives in float32, in any batch; `auto` takes the faster one and remembers it."""

from __future__ import annotations

import json
import logging
import math
import os
import subprocess
import sys
import threading
import warnings
import weakref
from collections import OrderedDict
from dataclasses import replace
from importlib import metadata

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sharpose_rt.compute import openvino_graphs, precision
from sharpose_rt.compute.streams import upload
from sharpose_rt.compute.threads import at_most_threads, take_threads
from sharpose_rt.config import PoseConfig
from sharpose_rt.engine import PoseEngine, choice
from sharpose_rt.engine.backend import TorchBackend
from sharpose_rt.engine.batching import Batcher, padded, plan
from sharpose_rt.engine.choice import choose, create_backend
from sharpose_rt.errors import ConfigError, DeviceError
from sharpose_rt.geometry.heatmap import decode, encode
from sharpose_rt.machine import processor, threads
from sharpose_rt.machine.threads import detector_threads, network_threads
from sharpose_rt.models import VARIANTS, Variant, create_model
from sharpose_rt.models.selection import split_cells
from sharpose_rt.models.sharpose import SHaRPose
from sharpose_rt.models.variants import BEHAVIOURS, Behaviour
from sharpose_rt.models.weights import load_model, save_weights
from tests.gain_weights import with_gain

MINI = Variant("mini", (128, 64), width=48, heads=3, alpha=0.5, sigma_cells=2, depth=2)
CONV = replace(MINI, name="conv", stem="mobile", decoder="pixels")
openvino = pytest.mark.skipif(not openvino_graphs.installed(), reason="openvino is not installed (the extra `cpu`)")


def uneven(variant: Variant, behaviour: Behaviour) -> SHaRPose:
    """A network whose attention and heatmaps differ from place to place, as those of a trained one."""
    torch.manual_seed(0)
    model = create_model(variant, behaviour)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.5 * torch.randn_like(parameter) / max(1, parameter[0].numel()) ** 0.5
    return model


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """Weights that are far from symmetric; the cache is a folder of this module's own."""
    folder = tmp_path_factory.mktemp("backends")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        for variant in (MINI, CONV):
            patch.setitem(VARIANTS, variant.name, variant)
            for behaviour in BEHAVIOURS.values():
                model = uneven(variant, behaviour)
                save_weights(model, folder / f"{variant.name}_{behaviour.name}.safetensors")
        yield PoseConfig(
            model="mini",
            weights=str(folder / "mini_released.safetensors"),
            device="cpu",
            precision="fp32",
            backend="torch",
            quality_threshold=math.inf,
        )


@pytest.fixture(scope="module")
def crops() -> np.ndarray:
    blocks = np.random.default_rng(5).integers(0, 256, (11, 16, 8, 3), np.uint8)
    return blocks.repeat(8, 1).repeat(8, 2)


# Any number of crops in few batch sizes


@given(st.integers(1, 70), st.sampled_from([(1, 2, 4, 8), (1,), tuple(range(1, 33)), (1, 8)]), st.floats(0.01, 20))
def test_a_plan_holds_all_crops_and_pads_only_the_last_batch(count, buckets, overhead):
    chosen = plan(count, buckets, overhead)
    assert set(chosen) <= set(buckets)
    assert sum(chosen[:-1]) < count <= sum(chosen)


@pytest.mark.parametrize(
    ("count", "overhead", "wanted"),
    [(5, 0.3, (4, 1)), (5, 16, (8,)), (7, 0.3, (4, 2, 1)), (7, 1.5, (8,)), (20, 0.3, (8, 8, 4)), (8, 0.3, (8,))],
)
def test_a_plan_pads_where_another_batch_would_be_dearer(count, overhead, wanted):
    assert plan(count, (1, 2, 4, 8), overhead) == wanted


def test_padding_repeats_the_last_row():
    rows = torch.arange(6.0).view(3, 2)
    assert padded(rows, 5).tolist() == [[0, 1], [2, 3], [4, 5], [4, 5], [4, 5]]
    assert padded(rows, 3) is rows


@given(st.integers(1, 40), st.floats(0.01, 20))
def test_batches_give_every_row_once_and_in_order(count, overhead):
    seen = []

    def stage(a, b):
        seen.append(len(a))
        return a * 2, a + b

    a, b = torch.arange(float(count))[:, None], torch.ones(count, 1)
    double, more = Batcher((1, 2, 4, 8), overhead).run(stage, a, b)
    assert torch.equal(double, a * 2)
    assert torch.equal(more, a + b)
    assert set(seen) <= {1, 2, 4, 8}


class _SmallMemory:
    """A device that holds so many rows."""

    def __init__(self, rows: int) -> None:
        self.rows, self.sizes = rows, []

    def __call__(self, rows):
        self.sizes.append(len(rows))
        if len(rows) > self.rows:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return (rows + 1,)


def test_out_of_memory_halves_the_bucket_for_good_and_goes_on(caplog):
    device, batcher = _SmallMemory(3), Batcher((1, 2, 4, 8), 0.3)
    rows = torch.arange(13.0)
    with caplog.at_level(logging.WARNING):
        assert torch.equal(batcher.run(device, rows)[0], rows + 1)
    assert device.sizes == [8, 4, *[2] * 6, 1]
    assert [record.args for record in caplog.records] == [(8, 4), (4, 2)]
    device.sizes.clear()
    assert torch.equal(batcher.run(device, rows)[0], rows + 1)
    assert max(device.sizes) == 2


def test_out_of_memory_for_a_single_crop_is_an_error():
    with pytest.raises(torch.OutOfMemoryError):
        Batcher((1, 2), 0.3).run(_SmallMemory(0), torch.zeros(5))


def test_bytes_go_to_a_gpu_from_pinned_memory_without_waiting(monkeypatch):
    done = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: done.append("pinned") or tensor)
    monkeypatch.setattr(torch.Tensor, "to", lambda tensor, *a, **k: done.append((*map(str, a), k)) or tensor)
    upload(torch.zeros(2), torch.device("cpu"))
    assert done == [("cpu", {})]
    done.clear()
    upload(torch.zeros(2), torch.device("cuda", 1))
    assert done == ["pinned", ("cuda:1", {"non_blocking": True})]


# OpenVINO against torch


@openvino
@pytest.mark.parametrize(("model", "behaviour"), [("mini", "paper"), ("mini", "released"), ("conv", "paper")])
def test_openvino_in_float32_gives_what_torch_gives(config, crops, model, behaviour):
    weights = config.weights.replace("mini_released", f"{model}_{behaviour}")
    config = replace(config, model=model, weights=weights, behaviour="auto")
    ours, theirs = PoseEngine(config), PoseEngine(replace(config, backend="openvino", max_batch=2))
    for count in (1, 5):  # 5 are several batches
        a, b = ours.infer(crops[:count]), theirs.infer(crops[:count])
        assert torch.equal(a.selected_cells, b.selected_cells)
        assert torch.equal(a.refined, b.refined)
        for name in ("coarse_heatmaps", "heatmaps", "quality", "cell_scores"):
            x, y = getattr(a, name), getattr(b, name)
            torch.testing.assert_close(x, y, atol=2e-4 * float(x.std() if count > 1 else x.abs().max()), rtol=1e-3)
    assert np.abs(ours.estimate_crops(crops).keypoints - theirs.estimate_crops(crops).keypoints).max() < 0.1


@openvino
def test_openvino_in_bf16_scores_cells_in_float32(config, crops):
    """Rounded to bf16 the scores would have ties, and other cells would be picked."""
    exact = PoseEngine(config).infer(crops)
    rough = PoseEngine(replace(config, backend="openvino", precision="bf16")).infer(crops)
    assert rough.cell_scores.dtype == torch.float32
    assert not torch.equal(rough.cell_scores, rough.cell_scores.bfloat16().float())
    assert (exact.selected_cells == rough.selected_cells).float().mean() > 0.8
    for name in ("coarse_heatmaps", "quality"):
        a, b = getattr(exact, name), getattr(rough, name)
        assert (a - b).abs().mean() < 0.03 * a.std() + 0.02


@openvino
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_openvino_decodes_as_torch_does(config, precision):
    engine = PoseEngine(replace(config, backend="openvino", precision=precision))
    variant = engine.network.variant
    (h, w), n = variant.size_hw, len(variant.skeleton)
    chance = np.random.default_rng(0)
    places = torch.tensor(chance.uniform((-4, -4), (w + 3, h + 3), (6, n, 2)), dtype=torch.float32)  # some outside
    heatmaps = encode(places, variant.heatmap_size_hw, variant.size_hw, variant.sigma_cells)
    heatmaps[1] *= 0.02
    heatmaps[2] = 0  # nobody
    heatmaps[3] += encode(places[4:5], variant.heatmap_size_hw, variant.size_hw, variant.sigma_cells)[0]  # two tops
    heatmaps[4] -= 0.1
    wanted_places, wanted_scores = decode(heatmaps, variant.size_hw, variant.skeleton.sigmas)
    found_places, found_scores = engine.decode(heatmaps)
    np.testing.assert_allclose(found_places, wanted_places, atol=1e-2)
    np.testing.assert_allclose(found_scores, wanted_scores, atol=1e-6)


@openvino
def test_openvino_predicts_the_gain_as_torch_does(config, crops, tmp_path):
    path = with_gain(config, tmp_path)
    a, b = (
        PoseEngine(replace(config, weights=str(path), backend=name)).infer(crops).gain.numpy()
        for name in ("torch", "openvino")
    )
    assert a.std() > 1e-3
    np.testing.assert_allclose(a, b, atol=1e-4)
    gated = replace(config, weights=str(path), refine_from_gain=float(np.sort(a)[3:5].mean()))
    c, d = (PoseEngine(replace(gated, backend=name)).estimate_crops(crops) for name in ("torch", "openvino"))
    assert 0 < c.refined.sum() < len(crops)
    assert np.array_equal(c.refined, d.refined)


@openvino
def test_openvinos_gate_and_flip_test_are_torchs(config, crops):
    quality = PoseEngine(config).estimate_crops(crops).quality
    gated = replace(config, quality_threshold=float(np.sort(quality)[3:5].mean()), flip_test=True)
    a, b = (PoseEngine(replace(gated, backend=name)).estimate_crops(crops) for name in ("torch", "openvino"))
    assert 0 < a.refined.sum() < len(crops)
    assert np.array_equal(a.refined, b.refined)
    np.testing.assert_allclose(a.scores, b.scores, atol=1e-3)


@openvino
def test_graphs_are_kept_and_made_anew_when_damaged(config, crops, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    config = replace(config, backend="openvino")
    on_disk, fsync = [], os.fsync
    monkeypatch.setattr(openvino_graphs.os, "fsync", lambda number: on_disk.append(number) or fsync(number))
    first = PoseEngine(config).estimate_crops(crops[:1])
    assert len(on_disk) == 6  # before they have their names
    kept = sorted((tmp_path / "sharpose-rt" / "graphs").iterdir())
    assert [path.suffix for path in kept] == [".bin", ".xml"] * 3  # both stages and the decoding

    ov, _ = openvino_graphs.openvino()
    converted = []
    convert = ov.convert_model
    monkeypatch.setattr(ov, "convert_model", lambda *a, **k: converted.append(1) or convert(*a, **k))
    again = PoseEngine(config).estimate_crops(crops[:1])
    assert not converted
    assert np.array_equal(first.keypoints, again.keypoints)

    monkeypatch.setattr(openvino_graphs, "KEPT", 3)
    for path in kept[1::2]:
        path.write_text("<net")
    assert np.array_equal(PoseEngine(config).estimate_crops(crops[:1]).keypoints, first.keypoints)
    assert len(converted) == 3

    paper = config.weights.replace("mini_released", "mini_paper")
    PoseEngine(replace(config, weights=paper))  # the same tensors, another behaviour
    assert len(converted) == 5
    now = sorted((tmp_path / "sharpose-rt" / "graphs").iterdir())
    assert len(now) == 6  # the oldest made room
    assert len(set(now) & set(kept)) == 2  # it decodes alike


@openvino
def test_graphs_in_the_cache_are_bound_by_bytes_too(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = tmp_path / "sharpose-rt" / "graphs"

    def make(width: int) -> int:
        openvino_graphs.traced(torch.nn.Linear(300, width).eval(), (torch.zeros(2, 300),))
        return sum(path.stat().st_size for path in folder.iterdir())

    monkeypatch.setattr(openvino_graphs, "KEPT_BYTES", make(100) * 5 // 2)
    totals = [make(100 + n) for n in range(1, 4)]
    assert max(totals) <= openvino_graphs.KEPT_BYTES
    assert len(list(folder.glob("*.bin"))) == len(list(folder.glob("*.xml"))) == 2
    monkeypatch.setattr(openvino_graphs, "KEPT_BYTES", 1)
    make(110)
    assert len(list(folder.glob("*.xml"))) == 1  # the newest


@openvino
def test_graphs_made_in_two_threads_leave_warnings_and_environment_as_they_were(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CI", "")
    monkeypatch.delenv("CI")
    ov, _ = openvino_graphs.openvino()
    convert, examples = ov.convert_model, (torch.zeros(2, 3),)
    other_began, first_done = threading.Event(), threading.Event()
    other = threading.Thread(target=openvino_graphs.traced, args=(torch.nn.Linear(3, 4).eval(), examples))

    def overlapping(*args, **options):
        """The other begins before the first ends, if it may, and ends after it."""
        if threading.current_thread() is other:
            other_began.set()
            assert first_done.wait(30)
        else:
            other.start()
            other_began.wait(0.3)
        return convert(*args, **options)

    monkeypatch.setattr(ov, "convert_model", overlapping)
    filters = list(warnings.filters)
    openvino_graphs.traced(torch.nn.Linear(3, 5).eval(), examples)
    first_done.set()
    other.join(30)
    assert warnings.filters == filters
    assert "CI" not in os.environ
    assert len(list(tmp_path.rglob("*.xml"))) == 2


@openvino
@pytest.mark.parametrize("writable", [False, True])
def test_the_run_takes_the_graphs_that_were_made_to_measure(config, crops, tmp_path, monkeypatch, writable):
    """From the cache, or where that cannot be written from memory, which holds none else."""
    if not writable:
        (tmp_path / "sharpose-rt").write_text("a file where the folder should be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(openvino_graphs, "_unwritten", OrderedDict())
    monkeypatch.setattr(choice, "installed", lambda: ("torch", "openvino"))
    monkeypatch.setattr(choice, "MEASURE_S", 0.0)
    monkeypatch.setattr(choice, "_best", lambda *_: "openvino float32")
    ov, _ = openvino_graphs.openvino()
    converted, convert = [], ov.convert_model
    monkeypatch.setattr(ov, "convert_model", lambda *a, **k: converted.append(1) or convert(*a, **k))
    found = PoseEngine(choose(replace(config, backend="auto"))).estimate_crops(crops[:4])
    assert len(converted) == 3  # both stages and the decoding
    assert len(openvino_graphs._unwritten) == (0 if writable else 3)
    wanted = PoseEngine(config).estimate_crops(crops[:4])
    np.testing.assert_allclose(found.keypoints, wanted.keypoints, atol=0.05)

    for width in range(openvino_graphs.KEPT):  # other networks in the same process
        openvino_graphs.traced(torch.nn.Linear(3, 4 + width).eval(), (torch.zeros(2, 3),))
    assert len(openvino_graphs._unwritten) == (0 if writable else openvino_graphs.KEPT)


@openvino
def test_warming_up_compiles_every_bucket_once(config, crops, monkeypatch):
    engine = PoseEngine(replace(config, backend="openvino", max_batch=2))
    engine.warm_up()
    monkeypatch.setattr(openvino_graphs, "openvino", None)  # nothing is compiled any more
    assert len(engine.estimate_crops(crops)) == len(crops)


@openvino
def test_larger_batches_are_compiled_behind_a_live_run(config, crops, monkeypatch):
    asked, may_go_on = [], threading.Event()
    compile_graph = openvino_graphs.for_batch

    def slow(model, batch, dtype, threads):
        asked.append(batch)
        assert batch == 1 or may_go_on.wait(30)
        return compile_graph(model, batch, dtype, threads)

    monkeypatch.setattr("sharpose_rt.engine.openvino_backend.for_batch", slow)
    engine = PoseEngine(replace(config, backend="openvino", quality_threshold=math.inf))
    engine.warm_up(1, behind=True)
    assert asked == [1, 1, 1]
    many = np.concatenate([crops, crops])[:4]
    first = engine.estimate_crops(many)  # one by one: nobody waits
    may_go_on.set()
    assert engine.backend._compiling is not None
    engine.backend._compiling.result(30)
    assert sorted(asked) == [1, 1, 1, 4, 4, 4]
    assert engine.backend.sizes(4) == (1, 4)
    ran = []
    monkeypatch.setattr(openvino_graphs.Graph, "__call__", wrapped(openvino_graphs.Graph.__call__, ran))
    then = engine.estimate_crops(many)
    assert ran == [4, 4, 4]
    np.testing.assert_allclose(first.keypoints, then.keypoints, atol=0.05)
    np.testing.assert_allclose(first.quality, then.quality, atol=1e-3)


def wrapped(call, ran):
    def counted(self, *tensors):
        ran.append(len(tensors[0]))
        return call(self, *tensors)

    return counted


@openvino
def test_a_batch_that_cannot_be_compiled_behind_leaves_smaller_ones(config, crops, monkeypatch, caplog):
    compile_graph = openvino_graphs.for_batch

    def short_of_memory(model, batch, dtype, threads):
        if batch > 2:
            raise MemoryError("bad_alloc")  # or a RuntimeError, of OpenVINO's own
        return compile_graph(model, batch, dtype, threads)

    monkeypatch.setattr("sharpose_rt.engine.openvino_backend.for_batch", short_of_memory)
    engine = PoseEngine(replace(config, backend="openvino"))
    engine.warm_up(2, behind=True)
    many = np.concatenate([crops, crops, crops])[:5]
    engine.estimate_crops(many)
    assert engine.backend._compiling is not None
    engine.backend._compiling.result(30)
    assert engine.backend.buckets == (1, 2)
    assert "at most 2 from now on" in caplog.text
    assert len(engine.estimate_crops(many)) == 5


@openvino
def test_a_thread_keeps_its_count_whatever_another_takes():
    taken, asked, seen = threading.Event(), threading.Event(), []

    def keeps() -> None:
        take_threads(2)
        taken.set()
        asked.wait(30)
        seen.append(torch.get_num_threads())

    before = torch.get_num_threads()
    thread = threading.Thread(target=keeps)
    thread.start()
    assert taken.wait(30)
    other = threading.Thread(target=take_threads, args=(1,))
    other.start()
    other.join()
    asked.set()
    thread.join()
    take_threads(before)
    assert seen == [2]


@pytest.mark.parametrize(("batch", "threads", "lanes"), [(1, 4, 1), (6, 4, 2), (4, 4, 4), (5, 4, 1)])
def test_a_batch_in_lanes_is_the_batch(batch, threads, lanes):
    module = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.GELU()).eval()
    graph = openvino_graphs.for_batch(
        openvino_graphs.traced(module, (torch.zeros(2, 3),)), batch, torch.float32, threads
    )
    assert len(graph._requests) == lanes
    x, y = torch.randn(2, batch, 3)
    with torch.no_grad():
        first, second = graph(x)[0], graph(y[:, [2, 1, 0]].flip(1))[0]  # neither writes into what the other gave
        assert torch.allclose(first, module(x), atol=1e-5)
        assert torch.allclose(second, module(y), atol=1e-5)


class Interrupted:
    """A request, but Ctrl-C comes before one of its methods."""

    def __init__(self, request, method: str) -> None:
        self._request, self._method = request, method

    def __getattr__(self, name: str):
        if name == self._method:
            raise KeyboardInterrupt
        return getattr(self._request, name)


@openvino
@pytest.mark.parametrize("method", ["set_input_tensor", "start_async", "wait"])
@pytest.mark.parametrize("lane", [0, 1])
def test_memory_that_openvino_writes_into_is_kept_behind_an_interrupt(monkeypatch, method, lane):
    module = torch.nn.Sequential(torch.nn.Linear(64, 512), torch.nn.GELU(), torch.nn.Linear(512, 64)).eval()
    model = openvino_graphs.traced(module, (torch.zeros(2, 64),))
    graph, held = openvino_graphs.for_batch(model, 512, torch.float32, 2), []
    shares = openvino_graphs.Graph._shares
    monkeypatch.setattr(
        openvino_graphs.Graph, "_shares", lambda self, t: held.append(weakref.ref(t)) or shares(self, t)
    )
    requests = graph._requests
    assert len(requests) == 2
    graph._requests = [Interrupted(r, method) if n == lane else r for n, r in enumerate(requests)]
    with pytest.raises(KeyboardInterrupt):
        graph(torch.randn(64, 512).T)  # not contiguous, so that what is read is a copy of the graph's own
    graph._requests = requests
    assert len(held) == 2
    assert all(tensor() is not None for tensor in held)
    x = torch.randn(512, 64)
    with torch.no_grad():
        assert torch.allclose(graph(x)[0], module(x), atol=1e-5)
    assert all(tensor() is None for tensor in held[:2])


@pytest.mark.parametrize(("width", "wanted"), [(48, [1, 1, 2, 3]), (256, [3, 3, 3, 3])])
def test_few_crops_of_a_narrow_network_have_few_threads_in_torch(width, wanted, monkeypatch):
    variant = replace(MINI, width=width, heads=width // 16, depth=1)
    engine_threads, seen = torch.get_num_threads(), []
    network = create_model(variant)
    backend = TorchBackend(network, torch.device("cpu"), torch.float32, 8)

    def noted(run, *inputs):
        seen.append(torch.get_num_threads())
        with at_most_threads(1):  # three that wait for each other take long beside other tests
            return run(*inputs)

    for stage in ("coarse_stage", "fine_stage"):
        run = getattr(network, stage)
        monkeypatch.setattr(network, stage, lambda *a, run=run: noted(run, *a))
    try:
        torch.set_num_threads(3)
        for count in (1, 3, 4, 8):
            images = torch.zeros(count, 3, *variant.size_hw)
            with torch.inference_mode():
                coarse = backend.coarse(images)
                backend.fine(images, coarse, *split_cells(coarse.cell_scores, network.selected_count))
            assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(engine_threads)
    assert seen[::2] == seen[1::2] == wanted


# Which backend `auto` takes


@pytest.fixture
def both(monkeypatch, tmp_path):
    """Both backends count as installed; the speeds are what the test says."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(choice, "installed", lambda: ("torch", "openvino"))
    rates = {"torch float32": 10.0, "openvino float32": 20.0}
    measured = []
    monkeypatch.setattr(choice, "measure", lambda *a: measured.append(1) or dict(rates))
    return rates, measured, tmp_path / "sharpose-rt" / "backends.json"


@pytest.mark.parametrize("faster", ["torch", "openvino"])
def test_auto_takes_the_faster_one_and_remembers_it(config, both, faster, caplog):
    caplog.set_level("INFO")
    rates, measured, path = both
    rates[f"{faster} float32"] = 99.0
    config = replace(config, backend="auto")
    assert choose(config) == choose(config) == replace(config, backend=faster)
    assert len(measured) == 1
    said = [record.message for record in caplog.records]
    assert said[0] == "measuring which is fastest here, for this and later runs: torch float32, openvino float32"
    assert said[1].startswith(f"backend: {faster} float32, the fastest here")
    (entry,) = json.loads(path.read_text()).values()
    assert entry == rates
    assert [p.name for p in path.parent.iterdir()] == ["backends.json"]
    choose(replace(config, threads=33))
    assert len(measured) == 2
    assert len(json.loads(path.read_text())) == 2


@openvino
def test_an_openvino_that_pip_knows_nothing_of_is_taken_too(config, both, monkeypatch):
    def found(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata.Distribution, "from_name", found)  # as out of Intel's archive
    package, _ = openvino_graphs.openvino()
    assert choose(replace(config, backend="auto")).backend == "openvino"
    (key,) = json.loads(both[2].read_text())
    assert key.endswith(f"openvino {package.__version__}")
    assert openvino_graphs._versions()[0] == torch.__version__


def test_where_nothing_can_be_remembered_nothing_is_said_to_be(config, both, caplog):
    _, measured, path = both
    path.parent.write_text("a file where the folder would be")
    with caplog.at_level("INFO"):
        for _ in range(2):
            choose(replace(config, backend="auto"))
    assert len(measured) == 2
    assert "cannot be written, so each start measures again; set XDG_CACHE_HOME" in caplog.text


def test_what_did_not_work_once_is_tried_again(config, both):
    rates, measured, path = both
    del rates["openvino float32"]  # it did not come up
    assert choose(replace(config, backend="auto")).backend == "torch"
    assert not path.exists()
    rates["openvino float32"] = 20.0
    assert choose(replace(config, backend="auto")).backend == "openvino"
    assert len(measured) == 2


def test_what_pays_is_decided_anew_by_the_rates_that_are_remembered(config, both):
    _, measured, path = both
    config = replace(config, backend="auto")
    choose(config)
    ((key, _),) = json.loads(path.read_text()).items()
    for rates, backend in (({"torch float32": 30.0, "openvino float32": 20}, "torch"), ({"way": "torch"}, "openvino")):
        path.write_text(json.dumps({key: rates}))
        assert choose(config).backend == backend
    assert len(measured) == 2  # at first, and where what is remembered is of another form


@pytest.mark.parametrize("text", ["", "[1]", "{"])
def test_a_damaged_memory_is_measured_again(config, both, text):
    _, measured, path = both
    path.parent.mkdir(parents=True)
    path.write_text(text)
    assert choose(replace(config, backend="auto")).backend == "openvino"
    assert measured


def test_auto_is_torch_where_nothing_else_is_installed_and_says_what_is_faster(config, both, monkeypatch, caplog):
    monkeypatch.setattr(choice, "installed", lambda: ("torch",))
    caplog.set_level(logging.INFO)
    assert choose(replace(config, backend="torch")).backend == "torch"
    assert not caplog.messages
    assert choose(replace(config, backend="auto")).backend == "torch"
    assert "pip install 'sharpose-rt[cpu]'" in caplog.text
    assert not both[1]


@openvino
def test_both_backends_are_really_measured(config, monkeypatch):
    monkeypatch.setattr(choice, "installed", lambda: ("torch", "openvino"))
    monkeypatch.setattr(choice, "MEASURE_S", 0.0)
    network, _ = load_model("mini", config.weights)
    threads_seen, turn = [], choice._turn
    monkeypatch.setattr(choice, "_turn", lambda *a: threads_seen.append(torch.get_num_threads()) or turn(*a))
    before = torch.get_num_threads()
    rates = choice.measure(network, replace(config, backend="auto", threads=1))
    assert set(threads_seen) == {1}  # as many as the run will have
    assert torch.get_num_threads() == before
    assert set(rates) == {"torch float32", "openvino float32"}
    assert min(rates.values()) > 0
    assert next(network.parameters()).dtype == torch.float32


def test_a_backend_that_does_not_come_up_is_left_out(config, monkeypatch, caplog):
    build = choice._build

    def broken(way: choice.Way, *rest):
        if way.backend == "openvino":
            raise RuntimeError("no such instruction")
        return build(way, *rest)

    monkeypatch.setattr(choice, "installed", lambda: ("torch", "openvino"))
    monkeypatch.setattr(choice, "MEASURE_S", 0.0)
    monkeypatch.setattr(choice, "_build", broken)
    network, _ = load_model("mini", config.weights)
    assert set(choice.measure(network, replace(config, backend="auto"))) == {"torch float32"}
    assert "no such instruction" in caplog.text
    ranges = dict.fromkeys(("any",), (0.0, 1.0))
    with pytest.raises(DeviceError, match="--backend torch"):
        choice.measure(network, replace(config, backend="openvino", precision="auto"), ranges)


def test_a_backend_that_is_not_there_says_what_to_do(config, monkeypatch):
    with pytest.raises(ConfigError, match="auto, torch, openvino"):
        PoseConfig(backend="tensorrt")
    monkeypatch.setitem(__import__("sys").modules, "openvino", None)
    monkeypatch.setattr(openvino_graphs, "openvino", openvino_graphs.openvino.__wrapped__)
    with pytest.raises(DeviceError, match=r"pip install 'sharpose-rt\[cpu\]'"):
        create_backend(load_model("mini", config.weights)[0], replace(config, backend="openvino"))


def test_openvino_is_refused_on_a_gpu(config, monkeypatch):
    monkeypatch.setattr(choice, "resolve_device", lambda wanted: torch.device("cuda"))
    with pytest.raises(DeviceError, match="--device cpu"):
        choose(replace(config, backend="openvino", device="cuda"))
    assert choose(replace(config, backend="auto", device="cuda")).backend == "torch"


# Precision


@pytest.mark.parametrize(
    ("hardware", "rates", "dtype"),
    [
        ({"avx512_bf16": True}, {"fp32": 100.0, "bf16": 200.0, "ratio": 1.9}, torch.bfloat16),
        ({"avx512_bf16": True}, {"fp32": 300.0, "bf16": 160.0, "ratio": 0.5}, torch.float32),
        ({"amx_bf16": True}, {"fp32": 100.0, "bf16": 110.0, "ratio": 1.1}, torch.float32),
        ({"avx512_bf16": True}, {"fp32": 53.3, "bf16": 81.5, "ratio": 0.6}, torch.float32),  # other work came and went
        ({}, None, torch.float32),
    ],
)
def test_bfloat16_is_taken_where_it_is_faster_and_that_is_remembered(monkeypatch, tmp_path, hardware, rates, dtype):
    asked = []
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: hardware)
    monkeypatch.setattr(precision, "_multiplications", lambda: asked.append(1) or rates)
    count = torch.get_num_threads()
    assert [precision.fastest_dtype.__wrapped__() for _ in range(2)] == [dtype] * 2
    assert torch.get_num_threads() == count
    assert len(asked) == (rates is not None)
    for path in tmp_path.rglob("precisions.json"):
        path.write_text('{"x": 1}')
        assert precision.fastest_dtype.__wrapped__() == dtype
        assert len(asked) == 2


def test_what_was_measured_on_another_processor_does_not_count(monkeypatch, tmp_path):
    """A cache is carried along in a home folder or a volume; names of hosts repeat."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    found = []
    for name, bf16 in (("Some 1", 200.0), ("Other 2", 90.0), ("Some 1", 0.0)):
        monkeypatch.setattr(precision, "processor_key", lambda name=name: name)
        monkeypatch.setattr(
            precision, "_multiplications", lambda bf16=bf16: {"fp32": 100.0, "bf16": bf16, "ratio": bf16 / 100}
        )
        found.append(precision.fastest_dtype.__wrapped__())
    assert found == [torch.bfloat16, torch.float32, torch.bfloat16]


def test_a_container_of_another_name_measures_nothing_anew(monkeypatch):
    found = []
    for name in ("c0ffee1", "c0ffee2"):
        monkeypatch.setattr("platform.node", lambda name=name: name)
        found.append(precision.this_machine())
    assert found[0] == found[1]


def test_processors_of_arm_are_told_apart(monkeypatch):
    monkeypatch.setattr(processor, "cpu_model", lambda: "aarch64")
    found = []
    for part in ("0xd0b", "0xd08"):
        monkeypatch.setattr(processor, "_first_core", lambda part=part: {"CPU implementer": "0x41", "CPU part": part})
        found.append(processor.processor_key())
    assert found == ["aarch64 0x41 0xd0b", "aarch64 0x41 0xd08"]


@openvino
def test_openvino_reports_its_use_to_nobody():
    code = """
import sys
from sharpose_rt.compute.openvino_graphs import openvino
openvino()
print([name for name in sys.modules if name.startswith("openvino_telemetry.")])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


def test_multiplications_are_really_timed():
    rates = precision._multiplications(64)
    assert set(rates) == {"fp32", "bf16", "ratio"}
    assert min(rates.values()) > 0


# Threads


@pytest.mark.parametrize(("usable", "pose", "detector"), [(1, 1, 1), (2, 2, 1), (4, 3, 1), (8, 6, 2), (64, 8, 4)])
def test_pose_and_detector_share_the_cores(monkeypatch, usable, pose, detector):
    monkeypatch.setattr(threads, "cores", lambda: usable)
    assert (network_threads(None), detector_threads(None)) == (pose, detector)
    assert network_threads(3) == 3
    assert detector_threads(usable) == 1
