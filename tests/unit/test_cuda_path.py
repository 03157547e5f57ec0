"""What runs on a GPU, as far as a CPU can tell: crops on the device, recordings and their checks, streams by a fake,
and all of it on the card of `tests/paper_cuda.py`, in processes of their own."""

from __future__ import annotations

import gc
import logging
import math
import os
import subprocess
import sys
import threading
import warnings
import weakref
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sharpose_rt.cli import main
from sharpose_rt.commands import evaluate, pretrain, track, train, train_detector
from sharpose_rt.compute.cuda_graphs import Recorded, Tape, _nothing_collected
from sharpose_rt.compute.streams import OwnStream, fetch
from sharpose_rt.config import DetectorConfig, PoseConfig
from sharpose_rt.detection import Runtime
from sharpose_rt.detection.bundled import BundledDetector
from sharpose_rt.detection.openvino_network import KEPT
from sharpose_rt.detection.yolo import Network, with_runtime
from sharpose_rt.engine import PoseEngine
from sharpose_rt.engine.cuda_backend import CudaBackend
from sharpose_rt.errors import ConfigError
from sharpose_rt.geometry.affine import crop_affine, warp_crops
from sharpose_rt.geometry.device_warp import warp_on_device
from sharpose_rt.media.demo_clip import read_photograph
from sharpose_rt.models import create_model
from sharpose_rt.models.gate import Gate
from sharpose_rt.skeleton import COCO17
from sharpose_rt.training.config import AugmentConfig
from sharpose_rt.training.device_crops import DeviceCrops
from sharpose_rt.training.transforms import Sampler
from sharpose_rt.types import Frame
from tests.paper_cuda import missing
from tests.people_set import SMALL
from tests.raising import raising

SIZE_WH = (96, 128)
BOXES = np.array([[48, 398, 245, 903], [222, 405, 345, 861], [669, 392, 809, 880], [-60, 300, 40, 700]], float)


@pytest.fixture(scope="module")
def picture():
    return read_photograph("bus.jpg")


@pytest.mark.parametrize("scale", [1.0, 0.4, 0.1])
def test_crops_on_the_device_are_those_of_the_cpu(picture, scale):
    """People smaller and larger than the crop, and one who is partly outside."""
    centre, half = (BOXES[:, :2] + BOXES[:, 2:]) / 2, (BOXES[:, 2:] - BOXES[:, :2]) * scale / 2
    affine = crop_affine(np.concatenate([centre - half, centre + half], 1), SIZE_WH)
    wanted = warp_crops(picture, affine, SIZE_WH).astype(int)
    found = warp_on_device(torch.from_numpy(picture), affine, SIZE_WH)
    assert found.shape == wanted.shape
    error = np.abs(found.numpy().astype(int) - wanted)
    assert error.mean() < 0.6
    assert np.median(error) <= 1


@settings(max_examples=30)
@given(st.floats(-80, 300), st.floats(-80, 200), st.floats(5, 400), st.floats(5, 400), st.floats(-180, 180))
def test_any_box_gives_a_crop_near_that_of_the_cpu(x, y, w, h, turn):
    ramp = np.stack(np.meshgrid(np.arange(240), np.arange(160)), -1)
    smooth = np.concatenate([ramp, ramp.sum(2, keepdims=True) // 2], 2).astype(np.uint8)
    affine = crop_affine([[x, y, x + w, y + h]], SIZE_WH, rotation_deg=turn)
    wanted = warp_crops(smooth, affine, SIZE_WH).astype(int)
    found = warp_on_device(torch.from_numpy(smooth), affine, SIZE_WH).numpy().astype(int)
    assert np.median(np.abs(found - wanted)) <= 2


@pytest.mark.parametrize("shape", [(60, 9000, 3), (9000, 60, 3), (100, 6000, 3)])
def test_very_long_pictures(shape):
    """Halved no oftener than their short side allows."""
    noise = np.random.default_rng(1).integers(0, 256, (shape[0] // 20, shape[1] // 20, 3), np.uint8)
    long = cv2.resize(noise, (shape[1], shape[0]))
    affine = crop_affine([[0, 0, shape[1], shape[0]]], SIZE_WH)
    found = warp_on_device(torch.from_numpy(long), affine, SIZE_WH).numpy().astype(int)
    assert np.abs(found - warp_crops(long, affine, SIZE_WH)).mean() < 1


def test_nobody_gives_no_crops(picture):
    assert warp_on_device(torch.from_numpy(picture), np.zeros((0, 2, 3)), SIZE_WH).shape == (0, 128, 96, 3)


# --- recordings -------------------------------------------------------------------------------------------------------


def fake_record(stage, tensors):
    """As a CUDA graph: replays into the same memory, reads the same memory."""
    places = [tensor.clone() for tensor in tensors]
    outputs = [out.clone() for out in stage(*places)]

    def replay():
        for place, out in zip(outputs, stage(*places), strict=True):
            place.copy_(out)

    return Tape(places, replay, outputs)


def nothing(stage, tensors):
    """A recording that holds what the stage gave for what it was made with, and does nothing when replayed."""
    tape = fake_record(stage, tensors)
    tape.replay()
    return Tape(tape.inputs, lambda: None, tape.outputs)


NO_MEMORY = (
    "CUDA out of memory. Tried to allocate 9.42 GiB. GPU 0 has a total capacity of 15.77 GiB of which 3.12 GiB is "
    "free. Including non-PyTorch memory, this process has 12.64 GiB memory in use. Of the allocated memory 12.1 GiB is "
    "allocated by PyTorch, and 80.00 MiB is reserved by PyTorch but unallocated.\nSee documentation for more"
)


class Card:
    """A GPU on which recordings find so many rows of memory, which each holds as long as it is there."""

    def __init__(self, rows: int) -> None:
        self.free, self.asked = rows, []

    def record(self, stage, tensors):
        rows = len(tensors[0])
        self.asked.append(tuple(tensors[0].shape))
        if rows > self.free:
            raise torch.OutOfMemoryError(NO_MEMORY)
        tape = fake_record(stage, tensors)
        self.free -= rows
        weakref.finalize(tape, self._give_back, rows)
        return tape

    def _give_back(self, rows: int) -> None:
        self.free += rows


def test_a_stage_is_recorded_once_a_shape_and_each_result_is_its_own():
    calls = []

    def record(stage, tensors):
        calls.append([tuple(t.shape) for t in tensors])
        return fake_record(stage, tensors)

    stage = Recorded("stage", lambda a, b: (a + b, a * b), record)
    first = stage(torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0]))
    second = stage(torch.tensor([5.0, 6.0]), torch.tensor([7.0, 8.0]))
    stage(torch.ones(3), torch.ones(3))
    assert [t.tolist() for t in first] == [[4.0, 6.0], [3.0, 8.0]]  # not overwritten by the second call
    assert [t.tolist() for t in second] == [[12.0, 14.0], [35.0, 48.0]]
    assert calls == [[(2,), (2,)], [(3,), (3,)]]


def test_inputs_of_another_type_are_not_squeezed_into_the_recording():
    stage = Recorded("decoding", lambda a: (a * 1,), fake_record)
    stage(torch.ones(1, dtype=torch.float16))
    found = stage(torch.tensor([0.12345678]))[0]
    assert (found.dtype, found.item()) == (torch.float32, pytest.approx(0.12345678, abs=1e-8))


def test_a_stage_that_gives_the_same_memory_each_time_hides_no_recording_that_does_nothing(caplog):
    bound = torch.zeros(2)

    def record(stage, tensors):
        return Tape([tensors[0].clone()], lambda: None, stage(*tensors))

    stage = Recorded("detector", lambda a: (bound.copy_(a + 1),), record)
    assert stage(torch.zeros(2))[0].tolist() == [1.0, 1.0]
    assert "gives other results" in caplog.text


def test_a_recording_that_fails_is_done_without(caplog):
    record = raising(RuntimeError("operation not permitted when stream is capturing\nmore"))
    stage = Recorded("coarse stage", lambda a: (a + 1,), record)
    with caplog.at_level(logging.WARNING, "sharpose_rt.compute.cuda_graphs"):
        assert stage(torch.zeros(2))[0].tolist() == [1.0, 1.0]
        assert stage(torch.ones(2))[0].tolist() == [2.0, 2.0]
    assert len(caplog.records) == 1
    assert "coarse stage: no CUDA graph for [2]" in caplog.text
    assert "more" not in caplog.text


def test_a_recording_that_is_broken_off_is_told_by_its_first_error(caplog):
    """Ending a broken recording fails too, in the place of what broke it."""

    @contextmanager
    def recording():
        try:
            yield
        finally:
            raise RuntimeError("operation failed due to a previous error during capture")

    def record(stage, tensors):
        with recording():
            raise RuntimeError("Cannot copy between CPU and CUDA tensors during CUDA graph capture\nmore")

    with caplog.at_level(logging.WARNING, "sharpose_rt.compute.cuda_graphs"):
        assert Recorded("coarse stage", lambda a: (a + 1,), record)(torch.zeros(2))[0].tolist() == [1.0, 1.0]
    assert caplog.messages == [
        "coarse stage: no CUDA graph for [2], it runs unrecorded: "
        "Cannot copy between CPU and CUDA tensors during CUDA graph capture"
    ]


def test_a_recording_that_gives_other_results_is_not_used(caplog):
    def record(stage, tensors):
        tape = fake_record(stage, tensors)
        return Tape(tape.inputs, lambda: tape.outputs[0].fill_(9), tape.outputs)

    stage = Recorded("fine stage", lambda a: (a + 1,), record)
    with caplog.at_level(logging.WARNING, "sharpose_rt.compute.cuda_graphs"):
        assert stage(torch.zeros(2))[0].tolist() == [1.0, 1.0]
    assert "gives other results" in caplog.text


def test_a_replay_that_does_nothing_is_not_used(caplog):
    """What the recording left in its outputs is right for the inputs that it was made with, and for no others."""

    stage = Recorded("fine stage", lambda a: (a + 1,), nothing)
    with caplog.at_level(logging.WARNING, "sharpose_rt.compute.cuda_graphs"):
        assert stage(torch.zeros(2))[0].tolist() == [1.0, 1.0]
        assert stage(torch.ones(2))[0].tolist() == [2.0, 2.0]
    assert "gives other results" in caplog.text


def test_an_infinite_output_is_the_same_as_itself_alone(caplog):
    """The gain is inf by weights that do not predict it."""
    stage = Recorded("coarse stage", lambda a: (a, torch.full_like(a, math.inf)), fake_record)
    with caplog.at_level(logging.WARNING, "sharpose_rt.compute.cuda_graphs"):
        assert stage(torch.ones(2))[1].tolist() == [math.inf] * 2
        assert caplog.text == ""
        Recorded("coarse stage", lambda a: (torch.full_like(a, math.inf),), nothing)(torch.ones(2))
    assert "gives other results" in caplog.text


def test_a_stage_that_gives_nan_is_recorded_all_the_same(caplog):
    def odd(a):
        return (a.log(), torch.full_like(a, math.nan))  # NaN, -inf and a number; NaN alone

    found = Recorded("fine stage", odd, fake_record)(torch.tensor([-1.0, 0.0, 1.0]))
    assert [str(value) for value in found[0].tolist()] == ["nan", "-inf", "0.0"]
    assert caplog.text == ""
    for wrong in ([0.0, -math.inf, 0.0], [math.nan, math.inf, 0.0], [math.nan, -math.inf, math.nan]):

        def record(stage, tensors, wrong=wrong):
            tape = fake_record(stage, tensors)
            return Tape(tape.inputs, lambda: tape.outputs[0].copy_(torch.tensor(wrong)), tape.outputs)

        Recorded("fine stage", lambda a: (a.log(),), record)(torch.tensor([-1.0, 0.0, 1.0]))
        assert "gives other results" in caplog.text
        caplog.clear()


def test_a_recording_without_memory_goes_to_the_one_who_halves_batches():
    stage = Recorded("coarse stage", lambda a: (a + 1,), Card(2).record)
    with pytest.raises(torch.OutOfMemoryError):
        stage(torch.zeros(4))
    assert stage(torch.zeros(2))[0].tolist() == [1.0, 1.0]


def recorded_engine(monkeypatch, record, config) -> PoseEngine:
    """On the CPU, as on a GPU with recordings made by `record`, and batches of up to four."""
    monkeypatch.setattr("sharpose_rt.engine.cuda_backend.Recorded", lambda n, stage: Recorded(n, stage, record))

    def create(network, config, ranges):
        backend = CudaBackend(network, torch.device("cpu"), torch.float32, config.max_batch)
        backend.buckets = (1, 2, 4)
        return backend

    with monkeypatch.context() as patch:
        patch.setattr("sharpose_rt.engine.engine.create_backend", create)
        return PoseEngine(config)


PLAIN = PoseConfig(model="tiny_256x192", device="cpu", backend="torch", precision="fp32")


@pytest.fixture(scope="module")
def wanted(picture):
    """The poses of `BOXES` by the plain backend."""
    return PoseEngine(PLAIN).estimate(picture, BOXES)


def test_the_backend_gives_what_the_plain_one_gives(picture, monkeypatch):
    """On the CPU with recordings by the fake: buckets, padding, crops, both stages and the gate, on real people."""
    plain, engine = PoseEngine(PLAIN), recorded_engine(monkeypatch, fake_record, PLAIN)
    assert isinstance(engine.backend, CudaBackend)
    quality = plain.estimate(picture, BOXES).quality
    for threshold in (math.inf, float(np.median(quality)), -math.inf):
        plain.gate = engine.gate = Gate(threshold)
        wanted, found = plain.estimate(picture, BOXES), engine.estimate(picture, BOXES)
        assert np.array_equal(found.refined, wanted.refined)
        sure = wanted.scores > 0.3
        assert sure.sum() > 10
        assert np.median(np.linalg.norm(found.keypoints - wanted.keypoints, axis=2)[sure]) < 2.0
    engine.backend.warm_up(4, behind=False)
    for recorded in (engine.backend._coarse, engine.backend._fine, engine.backend._decoded):
        assert recorded._tapes
        assert all(recorded._tapes.values())


def test_a_backend_that_is_short_of_memory_warms_up_what_fits(monkeypatch, caplog):
    def record(stage, tensors):
        if len(tensors[0]) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return fake_record(stage, tensors)

    monkeypatch.setattr("sharpose_rt.engine.cuda_backend.Recorded", lambda n, stage: Recorded(n, stage, record))
    backend = CudaBackend(create_model(SMALL), torch.device("cpu"), torch.float32, 8)
    backend.buckets = (1, 2, 4, 8)
    backend.warm_up(8, behind=False)
    assert "4 crops at once do not fit" in caplog.text
    assert len(backend._coarse._tapes) == len(backend._fine._tapes) == len(backend._decoded._tapes) == 2


def poses_alike(found, wanted) -> bool:
    sure = wanted.scores > 0.3
    return sure.sum() > 10 and np.median(np.linalg.norm(found.keypoints - wanted.keypoints, axis=2)[sure]) < 2.0


def test_where_batches_are_halved_the_recordings_of_larger_ones_go(picture, wanted, monkeypatch, caplog):
    """Four people: the coarse stage's recording of four leaves too little for that of the fine one. Once it is gone all
    three stages fit by twos."""
    card = Card(6)
    engine = recorded_engine(monkeypatch, card.record, PLAIN)
    for _ in range(2):
        assert poses_alike(engine.estimate(picture, BOXES), wanted)
    assert caplog.messages == ["a batch of 4 crops does not fit into memory; at most 2 at once from now on"]
    assert card.free == 0  # two rows for each stage
    assert [shape[0] for shape in card.asked] == [4, 4, 2, 2, 2]


@pytest.mark.parametrize(("rows", "warmed"), [(0, True), (1, False)])
def test_where_one_crop_does_not_fit_recorded_it_runs_unrecorded(picture, wanted, monkeypatch, caplog, rows, warmed):
    card = Card(rows)
    engine = recorded_engine(monkeypatch, card.record, PLAIN)
    if warmed:
        engine.warm_up()
        assert "1 crops at once do not fit into the GPU's memory with CUDA graphs; they run without" in caplog.text
    one = engine.estimate(picture, BOXES[:1])
    np.testing.assert_allclose(one.scores, wanted.scores[:1], atol=0.1)
    assert poses_alike(engine.estimate(picture, BOXES), wanted)
    assert len(card.asked) == rows + 1  # and not again with each picture
    assert card.free == rows


@pytest.mark.parametrize(
    "said",
    ["CUDA error: out of memory\nCUDA kernel errors might be", "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling",
     "cuDNN error: CUDNN_STATUS_ALLOC_FAILED"],
)  # fmt: skip
def test_memory_that_is_not_torchs_to_give_may_be_short_too(picture, wanted, monkeypatch, said):
    def record(stage, tensors):
        if len(tensors[0]) > 1:
            raise RuntimeError(said)
        return fake_record(stage, tensors)

    engine = recorded_engine(monkeypatch, record, PLAIN)
    assert poses_alike(engine.estimate(picture, BOXES), wanted)
    assert engine._batcher.buckets == (1,)


def test_an_engine_that_nobody_has_any_more_goes_at_once_and_its_recordings_with_it(picture, monkeypatch):
    """A graph that went whenever Python looks for circles might go while another one is recorded, and break that."""
    card = Card(12)
    engine = recorded_engine(monkeypatch, card.record, PLAIN)
    engine.estimate(picture, BOXES)
    backend = weakref.ref(engine.backend)
    assert card.free == 0
    gc.collect()
    gc.disable()
    try:
        engine.__dict__.clear()
        assert backend() is None
        assert card.free == 12
    finally:
        gc.enable()


@pytest.mark.parametrize("enabled", [True, False])
def test_nothing_is_collected_while_something_is_recorded(enabled):
    before = gc.isenabled()
    try:
        (gc.enable if enabled else gc.disable)()
        with suppress(RuntimeError), _nothing_collected():
            assert not gc.isenabled()
            raise RuntimeError("cannot be recorded")
        assert gc.isenabled() is enabled
    finally:
        (gc.enable if before else gc.disable)()


def test_where_one_crop_does_not_fit_unrecorded_either_it_is_an_error(picture, monkeypatch):
    card = Card(2)
    engine = recorded_engine(monkeypatch, card.record, PLAIN)

    monkeypatch.setattr(engine.network, "fine_stage", raising(torch.OutOfMemoryError(NO_MEMORY)))
    with pytest.raises(torch.OutOfMemoryError):
        engine.estimate(picture, BOXES[:1])
    assert card.free == 2


def test_a_recorded_detector_finds_what_the_plain_one_finds(picture, monkeypatch):
    monkeypatch.setattr("sharpose_rt.compute.cuda_graphs.Recorded", lambda n, stage: Recorded(n, stage, fake_record))
    detector = BundledDetector(DetectorConfig(name="bundled"))
    detector.open()
    plain = detector._network
    assert plain is not None
    recorded = replace(plain, run=with_runtime(replace(plain, device=torch.device("cuda")), Runtime()).run)
    head = plain.run.model[-1]  # type: ignore[attr-defined]
    grids = []
    # A recording's memory is used again, and pictures of another size come between.
    for image in (picture, picture[:, ::-1].copy(), picture[:, 200:].copy(), picture):
        frame = Frame(0, 0.0, image)
        detector._network = plain
        wanted = detector.detect(frame)
        detector._network = recorded
        grids.append(weakref.ref(head.anchors))
        found = detector.detect(frame)
        assert len(wanted) > 1
        np.testing.assert_allclose(found.bboxes_xyxy, wanted.bboxes_xyxy, atol=0.01)
        np.testing.assert_allclose(found.bbox_scores, wanted.bbox_scores, atol=1e-4)
    assert all(grid() is not None for grid in grids[:3])  # which a recording reads on


SIZES = [(1, 3, 64, 64 + 32 * n) for n in range(KEPT + 2)]


def recorded_detector(monkeypatch, card: Card):
    """The bundled detector as it runs on a GPU, and its module."""
    monkeypatch.setattr("sharpose_rt.compute.cuda_graphs.Recorded", lambda n, stage: Recorded(n, stage, card.record))
    network = BundledDetector(DetectorConfig(name="bundled")).load()
    return with_runtime(replace(network, device=torch.device("cuda")), Runtime()).run, network.run


@torch.inference_mode()
def test_a_detector_keeps_the_recordings_of_so_many_sizes_only(monkeypatch):
    card, grids = Card(100), []
    run, module = recorded_detector(monkeypatch, card)
    for size in SIZES:
        run(torch.zeros(size))
        grids.append(weakref.ref(module.model[-1].anchors))  # type: ignore[attr-defined]
    assert card.free == 100 - 2  # all others went together when one too many came
    assert [grid() is not None for grid in grids] == [False] * KEPT + [True] * 2
    for size in (SIZES[2], SIZES[0], SIZES[2], SIZES[-1], SIZES[3]):
        run(torch.zeros(size))
    assert card.asked == [*SIZES, SIZES[2], SIZES[0], SIZES[3]]


@torch.inference_mode()
def test_a_detector_whose_recordings_do_not_fit_goes_on_without(monkeypatch, caplog):
    card, freed = Card(2), []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: freed.append(card.free))
    run, module = recorded_detector(monkeypatch, card)
    for size in (*SIZES[:4], SIZES[0]):
        pixels = torch.rand(size)
        torch.testing.assert_close(run(pixels), module(pixels)[0], atol=1e-3, rtol=1e-3)
    assert freed == [2]  # all of it
    assert card.asked == SIZES[:3]
    assert caplog.messages == [
        "the detector with CUDA graphs does not fit into the GPU's memory; continuing without them"
    ]


def test_an_exported_detector_is_left_as_it_is_on_a_gpu():
    def run(pixels):
        return pixels

    network = Network(run, 1, (0,), True, torch.device("cuda"))
    assert with_runtime(network, Runtime()).run is run


def test_what_comes_from_a_gpu_is_waited_for_when_it_is_wanted(monkeypatch):
    done: list[str] = []

    class Place:
        def copy_(self, source, non_blocking):
            done.append(f"queued, {non_blocking=}")

    class FakeEvent:
        def record(self, stream):
            done.append(f"marked on {stream}")

        def synchronize(self):
            done.append("waited")

    place = Place()
    monkeypatch.setattr(torch, "empty", lambda shape, dtype, pin_memory: place if pin_memory else None)
    monkeypatch.setattr(torch.cuda, "Event", FakeEvent)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"the stream of {device}")
    on_gpu = SimpleNamespace(is_cuda=True, shape=(2,), dtype=torch.float32, device="cuda:1")
    arrived = fetch(on_gpu)  # type: ignore[arg-type]
    assert done == ["queued, non_blocking=True", "marked on the stream of cuda:1"]
    assert arrived() is place
    assert done[2:] == ["waited"]


def test_a_quality_is_fetched_only_where_it_decides(picture, monkeypatch):
    fetched: list[int] = []
    monkeypatch.setattr(
        "sharpose_rt.engine.engine.fetch", lambda outlook: fetched.append(outlook.shape[1]) or fetch(outlook)
    )
    engine = PoseEngine(PLAIN)
    engine.gate = Gate()
    everybody = engine.estimate(picture, BOXES)
    assert everybody.refined.all()
    assert fetched == []
    engine.gate = Gate(float(np.median(everybody.quality)))
    low = everybody.quality < engine.gate.quality_threshold
    assert engine.estimate(picture, BOXES).refined.tolist() == low.tolist()
    nobody = engine.estimate(picture, BOXES, lambda rows, outlook: np.zeros(len(outlook.quality), bool))
    assert not nobody.refined.any()
    assert fetched == [len(BOXES)] * 2


def test_pictures_that_are_views_or_read_only_are_cut_as_others(picture):
    backend = CudaBackend(create_model(SMALL), torch.device("cpu"), torch.float32, 4)
    affine = crop_affine(BOXES, SIZE_WH)
    wanted = backend.cut(picture, affine, SIZE_WH)
    rgb = np.ascontiguousarray(picture[..., ::-1])
    rgb.setflags(write=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(backend.cut(rgb[..., ::-1], affine, SIZE_WH), wanted)


# --- too little memory ------------------------------------------------------------------------------------------------

COMMANDS = {
    train: ["train", "--config", "tiny_256x192"],
    pretrain: ["pretrain", "--config", "tiny_256x192"],
    train_detector: ["train-detector", "--out", "x.safetensors"],
    evaluate: ["eval", "--annotations", "a.json", "--images", "val", "--batch", "512"],
    track: ["--source", "walk.mp4"],
}


@pytest.mark.parametrize("module", COMMANDS, ids=lambda module: module.__name__.rpartition(".")[2])
def test_too_little_memory_is_told_in_one_line(module, monkeypatch, capsys):
    monkeypatch.setattr(module, "run", raising(torch.OutOfMemoryError(NO_MEMORY)))
    assert main(COMMANDS[module]) == 2
    said = capsys.readouterr().err
    assert said.startswith(
        "sharpose-rt: error: CUDA out of memory. Tried to allocate 9.42 GiB. GPU 0 has a total capacity of 15.77 GiB "
        "of which 3.12 GiB is free; try a smaller batch (--batch N "
    )
    assert said.count("\n") == 1


@pytest.mark.parametrize("loaded", [True, False])
def test_a_bug_keeps_its_traceback_with_torch_and_without(loaded, monkeypatch):
    monkeypatch.setattr(track, "run", raising(RuntimeError("a bug")))
    if not loaded:
        monkeypatch.delitem(sys.modules, "torch")
    with pytest.raises(RuntimeError, match="a bug"):
        main(COMMANDS[track])


def test_crops_that_the_device_cannot_hold_are_told_by_their_option(monkeypatch):
    monkeypatch.setattr(torch, "empty", raising(torch.OutOfMemoryError(NO_MEMORY)))
    sampler = Sampler([None] * 66900, (192, 256), AugmentConfig(), COCO17)  # type: ignore[arg-type]
    wanted = (
        r"data\.cache device holds 66900 people's crops of 331776 bytes each: CUDA out of memory\. Tried to allo.* is "
    )
    with pytest.raises(ConfigError, match=wanted + r"free; give --set data\.cache=none, or fewer sets"):
        DeviceCrops(sampler, torch.device("cuda"))


# --- streams ----------------------------------------------------------------------------------------------------------


def test_each_network_works_in_its_own_stream(picture, monkeypatch):
    """Detector and pose engine, each in a thread: every call lies within the stream of its owner, and in no other."""
    inside = threading.local()
    seen: list[tuple[str, str]] = []

    class FakeStream:
        def __init__(self, device):
            self.name = f"stream {len(made)}"
            made.append(self)

        @contextmanager
        def __call__(self):
            assert getattr(inside, "name", None) is None
            inside.name = self.name
            yield
            inside.name = None

    made: list[FakeStream] = []
    monkeypatch.setattr("sharpose_rt.compute.streams.OwnStream", FakeStream)
    monkeypatch.setattr("sharpose_rt.engine.engine.OwnStream", FakeStream)
    engine = PoseEngine(PLAIN)
    detector = BundledDetector(DetectorConfig(name="bundled"))
    detector.open()
    run_pose, run_network = engine.backend.coarse, detector._network.run  # type: ignore[union-attr]

    def pose(images):
        seen.append(("pose", inside.name))
        return run_pose(images)

    def network(pixels):
        seen.append(("detect", inside.name))
        return run_network(pixels)

    engine.backend.coarse = pose  # type: ignore[method-assign]
    detector._network = replace(detector._network, run=network)  # type: ignore[type-var]
    threads = [
        threading.Thread(target=lambda: engine.estimate(picture, BOXES)),
        threading.Thread(target=lambda: detector.detect(Frame(0, 0.0, picture))),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert {name: {s for n, s in seen if n == name} for name in ("pose", "detect")} == {
        "pose": {"stream 0"},
        "detect": {"stream 1"},
    }


def test_on_a_cpu_a_stream_is_nothing():
    own = OwnStream(torch.device("cpu"))
    assert own.stream is None
    with own():
        pass


# --- on a GPU ---------------------------------------------------------------------------------------------------------


@pytest.mark.gpu
def test_recorded_stages_and_crops_on_the_gpu_give_what_the_cpu_gives(cuda, picture, caplog):
    config = PoseConfig(model="tiny_256x192", device="cpu", backend="torch", precision="fp32")
    on_cpu, on_cuda = PoseEngine(config), PoseEngine(replace(config, device=cuda))
    with caplog.at_level(logging.WARNING, "sharpose_rt.compute.cuda_graphs"):
        on_cuda.warm_up()
    assert not caplog.records  # each stage could be recorded
    quality = on_cpu.estimate(picture, BOXES).quality
    for threshold in (math.inf, float(np.median(quality)), -math.inf):
        on_cpu.gate = on_cuda.gate = Gate(threshold)
        wanted, found = on_cpu.estimate(picture, BOXES), on_cuda.estimate(picture, BOXES)
        sure = wanted.scores > 0.3
        assert np.median(np.linalg.norm(found.keypoints - wanted.keypoints, axis=2)[sure]) < 2.0


@pytest.mark.gpu
def test_a_recorded_detector_on_the_gpu_finds_what_the_cpu_finds(cuda, picture, caplog):
    found = []
    for device in ("cpu", cuda):
        detector = BundledDetector(DetectorConfig(name="bundled"), device=device)
        detector.open()
        with caplog.at_level(logging.WARNING, "sharpose_rt.compute.cuda_graphs"):
            found.append([detector.detect(Frame(i, 0.0, picture)) for i in range(2)][-1])
    assert not caplog.records  # it could be recorded
    on_cpu, on_cuda = found
    assert len(on_cuda) == len(on_cpu) > 1
    np.testing.assert_allclose(on_cuda.bboxes_xyxy, on_cpu.bboxes_xyxy, atol=3)


@pytest.mark.gpu
def test_two_threads_on_the_gpu_do_not_disturb_each_other(cuda, picture):
    """Detection beside poses, while the stages are being recorded: the results are those of one after the other."""
    config = PoseConfig(model="tiny_256x192", device=cuda, precision="fp32")
    detector = BundledDetector(DetectorConfig(name="bundled"), device=cuda)
    detector.open()
    alone = detector.detect(Frame(0, 0.0, picture)), PoseEngine(config).estimate(picture, BOXES)
    found: dict[str, list] = {"boxes": [], "poses": []}

    def poses():
        engine = PoseEngine(config)
        found["poses"] = [engine.estimate(picture, BOXES) for _ in range(20)]

    threads = [
        threading.Thread(target=poses),
        threading.Thread(
            target=lambda: found["boxes"].extend(detector.detect(Frame(0, 0.0, picture)) for _ in range(50))
        ),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert len(found["boxes"]) == 50
    assert len(found["poses"]) == 20
    for boxes in found["boxes"]:
        assert np.allclose(boxes.bboxes_xyxy, alone[0].bboxes_xyxy, atol=0.5)
    for estimate in found["poses"]:
        assert np.allclose(estimate.keypoints, alone[1].keypoints, atol=0.5)


def run_on_paper(marked: str, *arguments: str) -> None:
    """pytest with these arguments, on that card, of what is so marked; skips where there can be none."""
    if reason := missing():
        pytest.skip(f"no CUDA card on paper: {reason}")
    # Without a way to skip: a test that did not find the card would pass as one that ran.
    environment = os.environ | {"SHARPOSE_REQUIRE_GPU": "1"}
    command = [sys.executable, "-m", "tests.paper_cuda", "-m", marked, *arguments]
    done = subprocess.run(
        command, cwd=Path(__file__).resolve().parents[2], env=environment, capture_output=True, text=True, timeout=540
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
    assert " skipped" not in done.stdout


@pytest.mark.timeout(600)
def test_streams_graphs_and_training():
    run_on_paper("gpu and not slow", "tests/on_paper.py")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_whole_runs_and_what_is_tested_on_a_gpu():
    run_on_paper("gpu and slow", "tests/on_paper.py")
    run_on_paper("gpu", "tests/unit/test_engine.py", "tests/unit/test_cuda_path.py")
