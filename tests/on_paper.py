"""What a card would show, on the one of `paper_cuda.py`: `test_cuda_path.py` runs these beside those marked `gpu`."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from sharpose_rt.cli import main
from sharpose_rt.config import PoseConfig
from sharpose_rt.engine import PoseEngine
from sharpose_rt.media.demo_clip import make_demo_clip, read_photograph
from sharpose_rt.models import VARIANTS
from sharpose_rt.models.gate import Gate
from sharpose_rt.skeletons import StreamReader
from sharpose_rt.training.config import AugmentConfig
from tests.paper_cuda import Graph, card
from tests.people_set import SMALL, train_config, trainer, write_set

pytestmark = pytest.mark.gpu
BOXES = np.array([[48, 398, 245, 903], [222, 405, 345, 861], [669, 392, 809, 880], [-60, 300, 40, 700]], float)


@pytest.fixture(autouse=True)
def nothing_is_wrong_before(cuda):
    torch.cuda.synchronize()
    card.take_back()
    assert not card.races


@pytest.fixture
def races():
    """Those that a test makes, which are then forgotten."""
    yield card.races
    card.take_back()
    card.races.clear()


# --- the card itself: it would find what is wrong ---------------------------------------------------------------------


def test_reading_what_another_stream_writes_is_a_race(races):
    values = torch.zeros(4).pin_memory().to("cuda", non_blocking=True)
    with torch.cuda.stream(torch.cuda.Stream()):
        values + 1
    assert len(races) == 1
    assert "add at" in races[0]
    assert "does not wait for stream 0: _to_copy" in races[0]


def test_writing_what_another_stream_reads_is_a_race(races):
    values, other = torch.zeros(4, device="cuda"), torch.cuda.Stream()
    other.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(other):
        values + 1
    assert not races
    values.fill_(2)
    assert len(races) == 1


def test_streams_that_wait_and_a_cpu_that_waits_make_no_race():
    values, other = torch.zeros(4, device="cuda"), torch.cuda.Stream()
    other.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(other):
        more = values + 1
    done = torch.cuda.Event()
    done.record(other)
    done.synchronize()
    values.fill_(2)
    assert more.sum().item() == 4


def test_memory_that_goes_back_too_soon_is_a_race(races):
    values, other = torch.zeros(4, device="cuda"), torch.cuda.Stream()
    kept = torch.zeros(4, device="cuda")
    other.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(other):
        values + 1
        kept + 1
    kept.record_stream(other)
    del values, kept
    torch.zeros(1, device="cuda")
    assert len(races) == 1
    assert "goes back" in races[0]


def test_what_is_copied_without_waiting_is_not_there_before_its_event():
    place = torch.zeros(4, pin_memory=True)
    place.copy_(torch.ones(4, device="cuda"), non_blocking=True)
    done = torch.cuda.Event()
    done.record()
    assert not (place == 1).any()
    done.synchronize()
    assert (place == 1).all()


def test_a_graph_repeats_its_kernels_and_refuses_to_wait():
    values, graph = torch.zeros(2, device="cuda"), torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        twice = values * 2 + 1
    values.fill_(5)
    graph.replay()
    assert twice.tolist() == [11, 11]
    with (
        pytest.raises(RuntimeError, match="not permitted when stream is capturing"),
        torch.cuda.graph(torch.cuda.CUDAGraph()),
    ):
        values.sum().item()


def test_mixed_devices_are_refused():
    with pytest.raises(RuntimeError, match="same device"):
        torch.zeros(2, device="cuda") + torch.zeros(2)
    with pytest.raises(TypeError, match="to numpy"):
        torch.zeros(2, device="cuda").numpy()


# --- what is ours -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gate", "flip", "waits", "launches"), [("all", False, 1, 40), ("some", False, 2, 50), ("some", True, 3, 100)]
)
def test_a_frame_of_people_is_waited_for_as_seldom_as_can_be(gate, flip, waits, launches, cuda):
    """Once for what the gate asks, and for keypoints and quality together; not for pictures, crops, heatmaps. And
    little is queued besides graphs, as that takes the CPU longer than it takes the card."""
    config = PoseConfig(model="tiny_256x192", device="cpu", backend="torch", precision="fp32", max_batch=4)
    config = replace(config, flip_test=flip)
    picture = read_photograph("bus.jpg")
    on_cpu, on_card = PoseEngine(config), PoseEngine(replace(config, device=cuda))
    quality = on_cpu.estimate(picture, BOXES).quality
    on_cpu.gate = on_card.gate = Gate(math.inf if gate == "all" else float(np.median(quality)))
    on_card.estimate(picture, BOXES)  # records its stages
    card.waits.clear()
    card.launches.clear()
    wanted, found = on_cpu.estimate(picture, BOXES), on_card.estimate(picture, BOXES)
    assert len(card.waits) == waits, card.waits
    assert len(card.launches) <= launches, card.launches
    np.testing.assert_array_equal(found.refined, wanted.refined)
    np.testing.assert_allclose(found.keypoints, wanted.keypoints, atol=2)
    assert not card.races


def track(clip: Path, device: str, frames: int, out: Path) -> int:
    run = ["track", "--source", str(clip), "--device", device, "--max-frames", str(frames), "--output", str(out)]
    run += ["--detector", "bundled", "--backend", "torch", "--precision", "fp32", "--set", "pose.max_batch=2"]
    return main([*run, "--no-video"])


@pytest.mark.slow
def test_a_run_gives_what_it_gives_on_the_cpu(tmp_path, cuda):
    """Detector and poses on streams of their own, in threads of their own."""
    make_demo_clip(tmp_path / "walk.mp4", seconds=0.5)
    found = {}
    for device in ("cpu", cuda):
        assert track(tmp_path / "walk.mp4", device, 4, tmp_path / device) == 0
        found[device] = [frame.poses for frame in StreamReader(tmp_path / device / "walk.skeletons.jsonl")]
    assert len(found["cpu"]) == len(found[cuda]) == 4
    for wanted, ours in zip(found["cpu"], found[cuda], strict=True):
        assert len(wanted) > 1
        np.testing.assert_array_equal(ours.track_ids, wanted.track_ids)
        sure = wanted.raw_keypoint_scores > 0.5
        away_px = np.linalg.norm(ours.raw_keypoints - wanted.raw_keypoints, axis=2)[sure]
        assert np.median(away_px) < 1
    assert not card.races


@pytest.mark.slow
@pytest.mark.parametrize(
    ("failure", "status", "frames", "said"),
    [
        (
            torch.AcceleratorError("CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be"),
            2,
            range(1, 9),
            "the GPU failed (an illegal memory access was encountered); what was written before is kept.",
        ),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.42 GiB."), 0, [9], "does not fit into"),
    ],
    ids=["lost", "short of memory"],
)
def test_a_card_that_fails_in_the_middle_of_a_run(
    failure, status, frames, said, tmp_path, cuda, monkeypatch, capsys, caplog
):
    make_demo_clip(tmp_path / "walk.mp4", seconds=0.5)
    stream, failed, replay = tmp_path / "walk.skeletons.jsonl", [], Graph.replay

    def fails(graph):
        if not failed and stream.is_file() and len(stream.read_bytes().splitlines()) > 1:  # a frame is written
            failed.append(graph)
            raise failure
        replay(graph)

    monkeypatch.setattr(Graph, "replay", fails)
    assert track(tmp_path / "walk.mp4", cuda, 9, tmp_path) == status
    assert failed
    assert said in capsys.readouterr().err + caplog.text
    assert len(list(StreamReader(stream))) in frames


def test_a_training_goes_on_from_its_checkpoint_as_if_it_had_not_stopped(tmp_path, cuda, monkeypatch):
    monkeypatch.setitem(VARIANTS, SMALL.name, SMALL)
    folder = write_set(tmp_path / "painted")
    augment = AugmentConfig(colour=0.2, occlusion_p=0.5, person_p=0.5, cut_p=0.5, low_resolution_p=0.5)
    plan = train_config(device=cuda, augment=augment, coarse_only_until=0.25, checkpoint_minutes=1e-6)
    plan = replace(plan, data=replace(plan.data, cache="device"))
    whole = trainer(plan, folder, tmp_path / "whole")
    assert whole.run() == "finished"
    assert {value.device.type for value in whole.model.state_dict().values()} == {"cuda"}
    first = trainer(plan, folder, tmp_path / "parts")
    assert first.run(progress=lambda row: first.stop() if row["step"] == 3 else None) == "stopped"
    second = trainer(plan, folder, tmp_path / "parts", resume=True)
    assert second.run() == "finished"
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[name]), name
    assert not card.races
