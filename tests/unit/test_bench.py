"""The benchmarks measure what they say: exit rates that are reached, people that are there, figures from files.

How fast anything is, is never asserted.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import signal
import threading
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sharpose_rt.bench import compare
from sharpose_rt.bench.alone import PARTS, Stopwatch, pose_parts
from sharpose_rt.bench.cameras import CamerasBench, Turn, _counted, run_cameras_bench
from sharpose_rt.bench.model import (
    GEMM_SIDES,
    Comparison,
    Gemm,
    ModelBench,
    gated,
    take_turns,
    varied_crops,
    who_is_refined,
)
from sharpose_rt.bench.people import FixedPeople, repeat_to
from sharpose_rt.bench.pipeline import RunWatch
from sharpose_rt.bench.record import SCHEMA, machine, make_record, read_record
from sharpose_rt.bench.report import (
    alone_cells,
    cameras_cells,
    model_cells,
    peer_cells,
    pipeline_cells,
    render,
    stage_cells,
)
from sharpose_rt.cli import main
from sharpose_rt.commands import bench
from sharpose_rt.compute import openvino_graphs
from sharpose_rt.config import DetectorConfig, PoseConfig, TrackerConfig, load
from sharpose_rt.detection import Looks, create_detector
from sharpose_rt.engine import PoseEngine
from sharpose_rt.errors import ConfigError, OutputError, StreamError
from sharpose_rt.media import PacedSource, open_source
from sharpose_rt.models import VARIANTS, Variant
from sharpose_rt.models.baselines import create_dense
from sharpose_rt.models.cost import measure_cost, measure_dense_gmacs
from sharpose_rt.models.gate import Gate
from sharpose_rt.models.int8 import WeightGrid
from sharpose_rt.models.variants import PAPER
from sharpose_rt.skeleton import COCO17
from sharpose_rt.tracking import KeypointSmoother, create_tracker
from sharpose_rt.types import Detections, Poses, Tracks
from tests.media_clips import write_clip

TOY = Variant("toy", (128, 96), width=32, heads=2, alpha=0.5, sigma_cells=2, depth=2)
CPU = torch.device("cpu")
openvino = pytest.mark.skipif(not openvino_graphs.installed(), reason="openvino is not installed (the extra `cpu`)")


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Variant:
    monkeypatch.setitem(VARIANTS, TOY.name, TOY)
    return TOY


@pytest.fixture(autouse=True)
def small_matrices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(GEMM_SIDES, "cpu", (16, 32))


def command(*arguments: object) -> int:
    parser = argparse.ArgumentParser()
    bench.add_arguments(parser)
    args = parser.parse_args([str(argument) for argument in arguments])
    return bench.run(args)


# The dense network


def test_dense_network_has_vitposes_output_and_treats_crops_one_by_one() -> None:
    torch.manual_seed(0)
    dense = create_dense(TOY)
    images = torch.randn(3, 3, *TOY.size_hw)
    with torch.inference_mode():
        heatmaps = dense(images)
        assert heatmaps.shape == (3, 17, 32, 24)
        torch.testing.assert_close(heatmaps[1:2], dense(images[1:2]), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("name", "stated"), [("small_256x192", 5.7), ("base_256x192", 18.6), ("base_384x288", 44.1)])
def test_dense_network_costs_what_the_paper_states_for_vitpose(name: str, stated: float) -> None:
    assert measure_dense_gmacs(VARIANTS[name]) == pytest.approx(stated, rel=0.025)


def test_dense_cost_is_the_sum_of_its_layers() -> None:
    n, d, filters = 8 * 6, TOY.width, 256
    tokens = n * 3 * 16 * 16 * d + TOY.depth * (n * 12 * d * d + 2 * n * n * d)
    decoder = n * d * filters * 16 + 4 * n * filters * filters * 16 + 16 * n * filters * 17
    assert measure_dense_gmacs(TOY) == pytest.approx((tokens + decoder) / 1e9, rel=1e-6)


# The gate at a stated exit rate


@given(st.integers(1, 64), st.floats(0, 1))
def test_the_stated_share_exits_spread_evenly(count: int, rate: float) -> None:
    refined = who_is_refined(count, rate)
    staying = count - round(rate * count)
    assert refined.sum() == staying
    halves = refined[: count // 2].sum(), refined[count - count // 2 :].sum()
    assert abs(int(halves[0]) - int(halves[1])) <= 1


def toy_engine(precision: str = "fp32") -> PoseEngine:
    return PoseEngine(PoseConfig(model="toy", weights="random", device="cpu", precision=precision))


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_those_who_are_to_be_refined_are(toy: Variant, dtype: str) -> None:
    engine = toy_engine(dtype)
    refined = who_is_refined(4, 0.25)
    assert gated(engine, varied_crops(4, engine.crop_size_hw), refined).refined.tolist() == refined.tolist()


def test_crops_that_exit_are_not_computed_in_a_turn(toy: Variant, monkeypatch: pytest.MonkeyPatch) -> None:
    comparison = toy_comparison(rounds=1, exit_rates=(0.25,))
    refined: list[int] = []
    network = comparison.engine.network
    fine_stage = network.fine_stage

    def counting(images: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        refined.append(len(images))
        return fine_stage(images, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(network, "fine_stage", counting)
    comparison.rows(batch=4)
    assert refined
    assert set(refined) == {3}


def toy_comparison(backend: str = "torch", dtype: torch.dtype = torch.float32, **options: object) -> Comparison:
    config = ModelBench(models=(), turn_s=0.0, device="cpu", **options)  # type: ignore[arg-type]
    return Comparison(TOY, config, dtype, Gemm(CPU, torch.float32), backend)


@pytest.mark.parametrize(
    ("backend", "dtype"),
    [
        ("torch", torch.float32),
        pytest.param("openvino", torch.float32, marks=[openvino, pytest.mark.slow]),
        pytest.param("openvino", torch.int8, marks=openvino),
    ],
)
def test_rows_compare_every_exit_rate_with_the_dense_network(
    toy: Variant, backend: str, dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    comparison = toy_comparison(backend, dtype, rounds=2)
    assert comparison.engine.backend.dtype == dtype
    rounding = [module for module in comparison.dense.modules() if isinstance(module, WeightGrid)]
    assert bool(rounding) == (dtype == torch.int8)
    rows = comparison.rows(batch=2)
    assert {row["backend"] for row in rows} == {backend}
    assert [row["method"] for row in rows] == ["dense"] + ["sharpose"] * 5
    assert [row["exit_rate"] for row in rows] == [None, 0.0, 0.25, 0.5, 0.75, 1.0]
    cost = measure_cost(TOY, PAPER)
    assert [row["gmacs"] for row in rows[1:]] == pytest.approx([cost.gmacs_at(r) for r in (0, 0.25, 0.5, 0.75, 1)])
    assert rows[0]["ratio"] == {"median": 1.0, "p10": 1.0, "p90": 1.0}
    for row in rows:
        assert row["crops"] == 4
        assert row["rounds"] == 2
        assert row["ratio"]["p10"] <= row["ratio"]["median"] <= row["ratio"]["p90"]
        assert min(row["crops_per_s"], row["gemm_percent"], row["latency_ms"]["p50"]) > 0
    # What the turns took, where it is known, gives these figures.
    taken = {rate: [[0.2, 0.2], [0.25, 0.25]] for rate in comparison.config.exit_rates}
    taken |= {"gemm": [[0.5, 0.25]] * 2, "dense": [[0.5, 0.5]] * 2}
    monkeypatch.setattr("sharpose_rt.bench.model.take_turns", lambda *_: taken)
    monkeypatch.setattr(comparison, "gemm", SimpleNamespace(run=list, flops=2.5e8))
    monkeypatch.setattr(comparison, "_dense", lambda batch: lambda crops: None)
    dense, both_stages, *_ = comparison.rows(batch=2)
    assert dense["gmacs"] == measure_dense_gmacs(TOY)
    assert (dense["crops_per_s"], both_stages["crops_per_s"]) == pytest.approx((4, 9))
    assert both_stages["ratio"] == pytest.approx({"median": 2.25, "p10": 2.05, "p90": 2.45})
    assert both_stages["latency_ms"] == pytest.approx({"p50": 225, "p95": 250})
    assert both_stages["gemm_gflops"] == pytest.approx(1)
    assert both_stages["gemm_percent"] == pytest.approx(100 * 9 * 2 * cost.gmacs_at(0))


def test_contenders_take_turns_in_alternating_order() -> None:
    order: list[str] = []

    def contender(name: str):
        return lambda: order.append(name) or [float(len(order))]

    found = take_turns({name: contender(name) for name in "abc"}, rounds=3)
    assert "".join(order) == "abccbaabc"
    assert found["a"] == [[1.0], [6.0], [7.0]]


def test_model_command_writes_a_record(toy: Variant, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "model.json"
    trace = tmp_path / "trace.json"
    options = ("--device", "cpu", "--precision", "fp32", "--exit-rates", "0,50", "--rounds", 1, "--json", out)
    options += ("--trace", trace)
    assert command("model", "--model", "toy", "--batch", "1,2", *options) == 0
    record = read_record(out)
    assert record["schema"] == SCHEMA
    assert record["machine"]["cores"] >= 1
    assert record["settings"]["precision"] == "float32"
    assert [(row["batch"], row["exit_rate"]) for row in record["results"]] == [
        (1, None), (1, 0.0), (1, 0.5), (2, None), (2, 0.0), (2, 0.5),
    ]  # fmt: skip
    assert "toy" in capsys.readouterr().out
    assert {"coarse", "select", "fine"} <= {event.get("name") for event in json.loads(trace.read_text())["traceEvents"]}
    text = render([record])
    assert "### toy" in text
    assert record["machine"]["cpu"] in text


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--batch", "0"), "numbers from 1"),
        (("--exit-rates", "120"), "shares from 0 to 1"),
        (("--rounds", "0"), "1 or more"),
        (("--model", "huge"), "no model 'huge'"),
        (("--precision", "int8", "--trace", "out.json"), "no int8"),
    ],
)
def test_model_command_refuses_bad_numbers(options: tuple[str, ...], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        command("model", *options)


# A number of people


def tracks(ids: list[int]) -> Tracks:
    left = np.array(ids, np.float32)[:, None] * 50
    boxes = np.concatenate([left, left * 0, left + 20, left * 0 + 60], 1)
    return Tracks(boxes, np.ones(len(ids), np.float32), np.array(ids), np.ones(len(ids), np.bool_))


@given(st.integers(1, 8), st.integers(1, 30))
def test_any_number_of_people_is_made_of_those_found(found: int, people: int) -> None:
    made = repeat_to(tracks(list(range(1, found + 1))), people)  # Tracks itself checks that ids are unique
    assert len(made) == people
    real = min(found, people)
    assert made.track_ids[:real].tolist() == list(range(1, real + 1))
    sizes = made.bboxes_xyxy[:, 2:] - made.bboxes_xyxy[:, :2]
    np.testing.assert_allclose(sizes, [[20, 60]] * people, rtol=1e-4)
    assert len(np.unique(made.bboxes_xyxy, axis=0)) == people


def test_fixed_people_counts_copies_and_bridges_empty_frames() -> None:
    fixed = FixedPeople(create_tracker(TrackerConfig(), COCO17), people=3, size_wh=(200, 100))
    nobody, two = Detections.empty(), Detections(tracks([1, 2]).bboxes_xyxy, np.ones(2, np.float32))
    assert len(fixed.update(nobody, 0.0)) == 3
    seen = [fixed.update(two, t / 10) for t in range(1, 4)][-1]
    assert len(seen) == 3
    np.testing.assert_allclose(seen.bboxes_xyxy[:2], two.bboxes_xyxy)
    assert fixed.update(nobody, 0.4).track_ids.tolist() == seen.track_ids.tolist()
    assert fixed.frames == 5
    assert fixed.copy_share == (5 * 3 - fixed.found) / 15


def test_the_tracker_knows_the_poses_of_fixed_people_by_its_own_ids() -> None:
    given: list[list[int]] = []

    class Inner:
        name, uses_poses = "inner", True

        def update(self, detections: object, pts_s: float, last_poses: Poses | None, *_: object) -> Tracks:
            given.append([] if last_poses is None else last_poses.track_ids.tolist())
            return tracks([4, 7] if pts_s < 1 else [7])

    fixed = FixedPeople(Inner(), people=3, size_wh=(200, 100))  # type: ignore[arg-type]
    poses = [some_poses(fixed.update(None, 0.0)), some_poses(fixed.update(None, 0.5))]
    assert [p.track_ids.tolist() for p in poses] == [[1, 2, 3]] * 2
    fixed.update(None, 1.0, poses[1])
    fixed.update(None, 1.5, some_poses(fixed.update(None, 1.2)))
    copy = 1_000_000
    assert given[2] == [4, 7, 4 + copy]
    assert given[4] == [7, 7 + copy, 7 + 2 * copy]


def test_fixed_people_stay_so_many_where_the_tracked_come_and_go(shared_dir: Path) -> None:
    config = load(None, ["detector.name=bundled", "source.max_frames=20"])
    detector = create_detector(config.detector)
    detector.open()
    with open_source(str(shared_dir / "video/openpose_video.avi"), config.source) as source:
        found = [(frame.pts_s, detector.detect(frame)) for frame in source]
        size_wh = source.info.size_wh
    fixed = FixedPeople(create_tracker(config.tracker, COCO17), people=10, size_wh=size_wh)
    smoother, last, counts = KeypointSmoother(config.smooth, COCO17), None, []
    for pts_s, people in found:
        last = some_poses(fixed.update(people, pts_s, last))
        counts.append(len(smoother.update(last, pts_s)))
    assert fixed.found != 10 * fixed.frames
    assert counts == [10] * len(found)


def some_poses(tracks: Tracks) -> Poses:
    n = len(tracks)
    middles = (tracks.bboxes_xyxy[:, :2] + tracks.bboxes_xyxy[:, 2:]) / 2
    points, scores = np.repeat(middles[:, None], 17, axis=1), np.ones((n, 17), np.float32)
    of_all = (tracks.bboxes_xyxy, tracks.bbox_scores, tracks.track_ids)
    return Poses(*of_all, points, scores, points, scores, np.ones(n, np.float32), np.zeros(n, np.int64))


# A file at its own pace


def test_paced_frames_are_captured_at_their_media_times(tmp_path: Path) -> None:
    times = write_clip(tmp_path / "clip.mp4", times_s=[0, 0.02, 0.04, 0.1, 0.12])
    with PacedSource(open_source(str(tmp_path / "clip.mp4"))) as source:
        assert source.info.live
        frames = list(source)
    assert [frame.pts_s for frame in frames] == pytest.approx(times)
    captured = np.array([frame.captured_at_s for frame in frames])
    # A machine that is too busy to decode in time stretches the clip, never shortens it, and says by how much.
    assert (np.diff(captured) >= np.diff(times) - 1e-6).all()
    assert captured[-1] - captured[0] == pytest.approx(times[-1] + source.slipped_s, abs=1e-6)


@pytest.mark.timeout(30)
def test_interrupt_ends_a_wait_for_the_next_frame(tmp_path: Path) -> None:
    write_clip(tmp_path / "clip.mp4", times_s=[0, 3600])
    source = PacedSource(open_source(str(tmp_path / "clip.mp4")))
    source.open()
    assert source.read() is not None
    thread = threading.Thread(target=source.interrupt)
    thread.start()
    assert source.read() is None
    thread.join()
    source.close()


# Whole runs


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    write_clip(tmp_path / "clip.mp4", frames=10, fps=25)
    lines = [f"{n},1,{10 + n},10,30,70,0.9\n{n},2,{90 - n},12,30,70,0.8\n" for n in range(1, 11)]
    (tmp_path / "boxes.txt").write_text("".join(lines))
    return tmp_path / "clip.mp4"


def run_options(clip: Path) -> tuple[object, ...]:
    pose = ("--model", "toy", "--weights", "random", "--device", "cpu", "--precision", "fp32")
    return ("--source", clip, "--detector", clip.with_name("boxes.txt"), *pose)


def test_a_rate_is_of_frames_that_came_out_while_others_came_in() -> None:
    """At the end of a file nobody is looked for any more, and what waits in the queues comes out faster."""
    watch = RunWatch()
    watch.left_s = [n / 10 if n < 70 else 7 + (n - 70) / 20 for n in range(90)]
    captured_s = [max(0.0, watch.left_s[max(0, n - 20)]) for n in range(90)]  # twenty frames ahead of what comes out
    watch.late_s = [left - captured for left, captured in zip(watch.left_s, captured_s, strict=True)]
    watch.rss = [1_000_000 * (100 + n) for n in range(90)]
    figures = watch.figures()
    assert figures["fps"] == pytest.approx(10)
    assert (figures["frames"], figures["warm_up_frames"]) == (90, 18)
    assert figures["latency_ms"]["p50"] == pytest.approx(2000)
    assert (figures["rss_peak_mb"], figures["rss_growth_mb"]) == pytest.approx((189, 186 - 121))
    for column in (watch.left_s, watch.late_s, watch.rss):
        del column[15:]  # all were read before the first came out
    assert watch.figures()["fps"] == pytest.approx(10)


def test_a_record_has_no_passwords(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["sharpose-rt", "bench", "pipeline", "--source", "rtsp://me:secret@host/stream"])
    record = make_record("pipeline", {}, [], {})
    assert record["command"] == "sharpose-rt bench pipeline --source 'rtsp://***@host/stream'"


def test_pipeline_command_writes_record_figure_and_report(toy: Variant, clip: Path, tmp_path: Path) -> None:
    out, plot, report = tmp_path / "p.json", tmp_path / "p.png", tmp_path / "B.md"
    assert command("pipeline", *run_options(clip), "--people", "found,3", "--json", out, "--plot", plot) == 0
    record = read_record(out)
    assert record["settings"]["mode"] == "file"
    found, three = record["results"]
    assert (found["people"], found["people_mean"]) == (None, 2.0)
    assert (three["people"], three["people_mean"]) == (3, 3.0)
    assert three["copies"] == pytest.approx(1 / 3)
    for row in (found, three):
        assert row["frames"] == 10
        assert row["dropped"] == {}
        assert row["exit_rate"] == 0  # random weights refine all
        assert row["latency_ms"]["p50"] <= row["latency_ms"]["p95"] <= row["latency_ms"]["p99"]
        assert row["fps"] > 0
        assert row["rss_peak_mb"] > 0
        assert [stage["name"] for stage in row["stages"]] == ["capture", "detect", "track", "pose", "smooth", "write"]
        alone = {part["name"]: part["mean_ms"] for part in row["alone"]}
        assert tuple(alone) == PARTS
        assert all(value > 0 for value in alone.values())
        assert row["alone_ms"] == pytest.approx(sum(alone.values()))
    assert plot.read_bytes().startswith(b"\x89PNG")

    assert command("report", out, "--out", report) == 0
    text = report.read_text(encoding="utf-8")
    assert "](p.png)" in text
    assert "toy (torch, float32, cpu), detector" in text
    assert f"| {three['alone_ms']:.1f} |" in text
    assert record["command"] in text


def test_no_frame_waits_for_what_is_made_when_it_is_first_wanted(
    toy: Variant, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The closer look comes a second into a clip: its graph would count among the frames, once for each run."""
    ready: list[tuple[int, int]] = []
    monkeypatch.setattr(Looks, "make_ready", lambda _, size_wh: ready.append(size_wh))
    with open_source(str(clip)) as source:
        size_wh = source.info.size_wh
    command("pipeline", *run_options(clip), "--people", "1", "--no-video")
    assert ready == [size_wh] * 2  # the run, and the parts alone
    ready.clear()
    second = shutil.copy(clip, tmp_path / "second.mp4")
    pose = ("--model", toy.name, "--weights", "random", "--backend", "torch", "--precision", "fp32")
    command("cameras", "--source", clip, "--source", second, "--detector", "full", "--rounds", "1", *pose)
    assert ready == [size_wh] * 3  # each apart, and both together


def test_memory_of_a_gpu_is_what_the_run_itself_reserved(
    toy: Variant, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Recordings work in memory that is reserved, but not allocated; what a run before left is not this one's."""
    card = SimpleNamespace(reserved=5e9, peak=5e9)  # a GPU by the counters alone: the run is on the CPU
    monkeypatch.setattr("sharpose_rt.bench.pipeline.resolve_device", lambda _: torch.device("cuda", 1))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: setattr(card, "reserved", 0))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda _: setattr(card, "peak", card.reserved))
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda _: card.peak + 2e9)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _: 1e9)
    out = tmp_path / "p.json"
    assert command("pipeline", *run_options(clip), "--people", "1", "--no-video", "--json", out) == 0
    (row,) = read_record(out)["results"]
    assert row["gpu_memory_mb"] == 2000


def test_a_paced_run_loses_nothing_untold(toy: Variant, clip: Path, tmp_path: Path) -> None:
    out = tmp_path / "paced.json"
    options = ("--people", "1", "--no-video", "--paced", "--json", out)
    assert command("pipeline", *run_options(clip), *options) == 0
    (row,) = read_record(out)["results"]
    assert row["frames"] + sum(row["dropped"].values()) == 10
    assert row["slipped_s"] >= 0
    assert {part["name"]: part["mean_ms"] for part in row["alone"]}["encode"] == 0


def test_parts_of_pose_are_the_engines_own(toy: Variant) -> None:
    engine = PoseEngine(PoseConfig(model="toy", weights="random", device="cpu", precision="fp32", max_batch=2))
    image = np.random.default_rng(0).integers(0, 255, (120, 160, 3)).astype(np.uint8)
    boxes = tracks([1, 2]).bboxes_xyxy[[0, 1, 0]] + np.float32([[0], [1], [2]])
    for threshold in (-math.inf, math.inf):
        engine.gate = Gate(threshold)
        watch = Stopwatch(CPU)
        watch.next_frame()
        found = np.concatenate(pose_parts(engine, image, boxes, watch))
        np.testing.assert_allclose(found, engine.estimate(image, boxes).keypoints, atol=1e-3)
        assert (watch.seconds("fine") > 0).all() == (threshold > 0)


def test_times_of_a_part_add_up_within_a_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = iter([0.0, 1.0, 1.0, 3.0, 5.0, 9.0])
    monkeypatch.setattr("sharpose_rt.bench.alone.time", SimpleNamespace(perf_counter=lambda: next(now_s)))
    watch = Stopwatch(CPU)
    for turns in (2, 1):
        watch.next_frame()
        for _ in range(turns):
            with watch("coarse"):
                pass
    assert watch.seconds("coarse").tolist() == [3, 4]
    assert watch.seconds("coarse", skip=1).tolist() == [4]
    watch.drop_last()
    assert (watch.seconds("coarse").tolist(), watch.seconds("fine").tolist(), len(watch)) == ([3], [0], 1)


def test_rounds_of_several_cameras_are_counted_whole() -> None:
    """Of sources that give a frame a second each, whose frames come out together or one after another."""
    for sources in (1, 3, 10):
        for apart_s in (0, 1 / sources):
            left_s = [r + apart_s * n for r in range(20) for n in range(sources)]
            frames, seconds = _counted(left_s, sources)
            assert frames / seconds == pytest.approx(sources)


def test_rates_of_several_cameras_are_frames_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    figures = dict.fromkeys(("backend", "precision", "device"), "")
    monkeypatch.setattr("sharpose_rt.bench.cameras._apart", lambda *_: Turn(14, 2.0, figures))
    monkeypatch.setattr("sharpose_rt.bench.cameras._together", lambda *_: Turn(12, 1.5, figures))
    apart, together = run_cameras_bench(CamerasBench(("a.mp4", "b.mp4"), load(), rounds=2))["results"]
    assert (apart["fps"], together["fps"]) == ([7, 7], [8, 8])
    assert together["ratio"] == {"median": 8 / 7, "least": 8 / 7, "most": 8 / 7}


def test_pipeline_command_refuses_what_it_cannot_measure(toy: Variant, clip: Path) -> None:
    with pytest.raises(ConfigError, match="flip_test"):
        command("pipeline", *run_options(clip), "--set", "pose.flip_test=true")
    with pytest.raises(ConfigError, match="numbers from 1"):
        command("pipeline", *run_options(clip), "--people", "0")
    with pytest.raises(ConfigError, match="rts"):
        command("pipeline", *run_options(clip), "--set", "smooth.method=rts")
    with pytest.raises(SystemExit):
        command("pipeline", *run_options(clip), "--people", "many")


# Records and reports


def test_every_gpu_of_a_machine_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the name that --device takes: rows say on which one they ran."""
    cards = [SimpleNamespace(name="NVIDIA T4", total_memory=15 << 30), SimpleNamespace(name="B", total_memory=80 << 30)]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(cards))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: cards[index])
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    assert machine()["gpu"] == "cuda:0 NVIDIA T4, 15 GiB; cuda:1 B, 80 GiB; CUDA 12.8"


# --- several sources


@pytest.mark.timeout(90)
def test_cameras_command_counts_every_frame_either_way(toy: Variant, clip: Path, tmp_path: Path) -> None:
    second, record_path = tmp_path / "second.mp4", tmp_path / "cameras.json"
    shutil.copy(clip, second)
    options = ["--model", toy.name, "--weights", "random", "--backend", "torch", "--detector", "full", "--offline"]
    arguments = ["--source", clip, "--source", second, "--frames", "20", "--rounds", "2", "--json", record_path]
    assert main(["bench", "cameras", *map(str, arguments), *options]) == 0
    apart, together = json.loads(record_path.read_text())["results"]
    assert (apart["way"], together["way"]) == ("one after another", "together")
    # Of 10 frames the first 2 are warm-up, and the first after them starts the clock: of each source.
    assert apart["frames"] == [2 * 7] * 2
    assert together["frames"] == [2 * 10 - 2 * 2 - 2] * 2
    assert apart["ratio"] == {"median": 1, "least": 1, "most": 1}
    rates = [a / b for a, b in zip(together["fps"], apart["fps"], strict=True)]
    assert together["ratio"]["median"] == pytest.approx(sum(rates) / 2)
    out = tmp_path / "report.md"
    assert main(["bench", "report", str(record_path), "--out", str(out)]) == 0
    assert "| together | 2 | 14 |" in out.read_text()
    ran = json.loads(record_path.read_text())["settings"]["ran"]
    assert f"toy (torch, {ran['precision'].removeprefix('torch.')}, {ran['device']}), detector full" in out.read_text()


@pytest.mark.parametrize(
    ("arguments", "said"), [(["--source", "a.mp4"], "two or more"), (["--rounds", "0"], "--rounds is 0")]
)
def test_cameras_command_refuses_what_it_cannot_compare(arguments, said, capsys) -> None:
    sources = ["--source", "a.mp4"] if "--source" in arguments else ["--source", "a.mp4", "--source", "b.mp4"]
    assert main(["bench", "cameras", *sources, *(arguments if "--rounds" in arguments else [])]) == 2
    assert said in capsys.readouterr().err


def test_each_figure_stands_below_its_heading() -> None:
    times = {"p50": 1.25, "p95": 2.5, "p99": 3.75}
    model: dict[str, Any] = {"backend": "torch", "batch": 8, "method": "sharpose", "exit_rate": 0.25, "crops_per_s": 64}
    model |= {"latency_ms": times, "gmacs": 0.5, "gemm_percent": 40, "ratio": {"median": 1.5, "p10": 1.4, "p90": 1.6}}
    wanted = ["torch", "8", "sharpose", "25 %", "64.0", "1.25", "2.50", "0.50", "40 %", "1.50 (1.40-1.60)"]
    assert model_cells(model) == wanted
    run: dict[str, Any] = {"people": None, "people_mean": 4.5, "copies": 0.1, "frames": 90, "fps": 20.5}
    run |= {"latency_ms": times, "dropped": {"detect": 2, "pose": 3}, "exit_rate": 0.6, "rss_peak_mb": 900}
    run |= {"rss_growth_mb": 1.5, "gpu_memory_mb": None, "bottleneck": "pose"}
    wanted = ["as found", "4.5", "10 %", "90", "20.5", "1.2", "2.5", "3.8", "5", "60 %", "900", "1.5", "", "pose"]
    assert pipeline_cells(run) == wanted
    parts = {"people": 5, "alone": [{"mean_ms": 1.5}, {"mean_ms": 2}], "alone_ms": 3.5}
    assert alone_cells(parts) == ["5", "1.50", "2.00", "3.5"]
    assert stage_cells({"people": 5, "stages": [{"p50_ms": 1, "p95_ms": 2}]}) == ["5", "1.00 / 2.00"]
    spread = {"median": 1.1, "least": 0.9, "most": 1.3}
    assert cameras_cells({"way": "together", "fps": [9, 7], "frames": [14, 14], "ratio": spread})[2:] == [
        *("14", "7.0 to 9.0", "1.10 (0.90-1.30)")
    ]
    peer = {"peer": "ours", "fps": 30, "latency_ms": times, "people_mean": 5, "ratio": spread, "error": None}
    assert peer_cells(peer) == ["ours", "30.0", "1.2", "2.5", "5.0", "1.10 (0.90-1.30)", ""]


@pytest.mark.parametrize(
    ("kind", "options", "at", "rows"),
    [
        ("model", ("--model", "toy", "--batch", "1,2", "--exit-rates", "0", "--rounds", 1, "--backend", "torch"), 2, 2),
        ("pipeline", ("--people", "1,2", "--no-video"), 2, 1),
        ("pipeline", ("--people", "1,2", "--no-video"), 1, 0),
    ],
)
def test_ctrl_c_keeps_what_was_measured_before_it(
    toy: Variant,
    clip: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    options: Any,
    at: int,
    rows: int,
) -> None:
    said: list[str] = []
    out = tmp_path / "record.json"

    def say(line: str) -> None:
        said.append(line)
        if len(said) == at:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(bench, "_say", say)
    arguments = (*options, "--device", "cpu") if kind == "model" else (*run_options(clip), *options)
    with pytest.raises(KeyboardInterrupt) if not rows else nullcontext():
        assert command(kind, *arguments, "--json", out) == 130
    assert out.exists() == bool(rows)
    if rows:
        assert len(read_record(out)["results"]) == rows
        assert ", interrupted, load" in render([read_record(out)])


def test_report_refuses_other_files(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    with pytest.raises(StreamError, match="cannot be read"):
        command("report", path)
    path.write_text('{"schema": "other"}')
    with pytest.raises(StreamError, match="is not a sharpose"):
        command("report", path)
    path.write_text(json.dumps({"schema": SCHEMA, "kind": "model"}))
    with pytest.raises(StreamError, match="lacks date"):
        command("report", path)


def test_report_names_the_file_that_is_edited_or_of_another_version(
    toy: Variant, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad, out = tmp_path / "good.json", tmp_path / "bad.json", tmp_path / "B.md"
    command("pipeline", *run_options(clip), "--people", "1", "--no-video", "--json", good)

    def refused(change: Callable[[dict[str, Any]], object]) -> str:
        record = read_record(good)
        change(record)
        bad.write_text(json.dumps(record))
        capsys.readouterr()
        assert main(["bench", "report", str(good), str(bad), "--out", str(out)]) == 2
        return capsys.readouterr().err

    for change in (
        lambda record: record["results"].clear(),
        lambda record: record["results"][0].pop("alone"),
        lambda record: record["machine"].pop("gpu"),
        lambda record: record.update(versions=None),
        lambda record: record["settings"].update(fps="25"),
    ):
        assert f"{bad} is not a complete measurement of this version (" in refused(change)
    assert f"{bad}: a record of the kind 'x'" in refused(lambda record: record.update(kind="x"))
    assert not out.exists()
    old = read_record(good)
    del old["results"][0]["backend"]  # which was not recorded before
    assert "toy (backend not recorded, float32, cpu)" in render([old])


def test_an_output_that_cannot_be_written_fails_before_the_measurement(
    toy: Variant, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        command("model", "--model", "toy", "--json", tmp_path / "file" / "m.json")
    with pytest.raises(OutputError, match="cannot be written"):
        command("pipeline", *run_options(clip), "--plot", tmp_path)
    assert capsys.readouterr().err == ""  # nothing was begun


def test_report_says_where_it_cannot_write(toy: Variant, tmp_path: Path) -> None:
    out = tmp_path / "m.json"
    command(
        "model", "--model", "toy", "--batch", "1", "--exit-rates", "0", "--rounds", 1, "--device", "cpu", "--json", out
    )
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        command("report", out, "--out", tmp_path / "file" / "B.md")
    record = read_record(out)
    record["results"][1]["crops_per_s"] = 12345.6
    record["results"][0]["gemm_gflops"], record["results"][1]["gemm_gflops"] = 20.0, 9.6
    text = render([record])
    assert "12345.6" in text
    assert "GEMM rate meanwhile: 10 to 20 GFLOP/s." in text
    other = {**record, "machine": {**record["machine"], "cpu": "another"}}
    assert "## Machine 2" in render([record, other])


# Other packages beside ours


def peer(folder: Path, body: str) -> compare.Peer:
    program = "from harness import crop, run\n\n\ndef make(job):\n" + body + "\n\nrun(make)\n"
    harness = compare.SCRIPTS / "harness.py"
    (folder / "harness.py").write_text(harness.read_text(encoding="utf-8"), encoding="utf-8")
    path = folder / "peer.py"
    path.write_text(program, encoding="utf-8")
    return compare.Peer(str(path), (), "a test")


def peer_bench(clip: Path, peers: tuple[str, ...], **options: Any) -> compare.PeerBench:
    boxes = DetectorConfig(str(clip.with_name("boxes.txt")))
    return compare.PeerBench(str(clip), peers, frames=4, detector=boxes, **options)


def test_peers_get_the_same_frames_and_boxes(clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    see = "    return lambda image, boxes: sum(crop(image, box).size > 0 for box in boxes) * (image.shape[2] == 3)"
    monkeypatch.setitem(compare.PEERS, "fake", peer(tmp_path, see))
    (row,) = compare.run_peer_bench(peer_bench(clip, ("fake",)))["results"]
    assert (row["error"], row["people_mean"]) == (None, 2.0)
    assert row["fps"] > 0
    record = compare.run_peer_bench(peer_bench(clip, ("fake",), people=5))
    assert record["results"][0]["people_mean"] == 5.0
    frames, boxes = compare.frames_and_boxes(peer_bench(clip, ("fake",), people=5))
    assert record["settings"]["size_wh"] == [frames.shape[2], frames.shape[1]] != [frames.shape[2]] * 2
    _, found = compare.frames_and_boxes(peer_bench(clip, ("fake",)))
    for five, two in zip(boxes, found, strict=True):  # again and again, a little aside
        np.testing.assert_array_equal(five, np.concatenate([two, two + 4, two[:1] + 8]))
    clip.with_name("boxes.txt").write_text("1,1,11,11,30,70,0.9\n")
    _, (first, second, *_) = compare.frames_and_boxes(peer_bench(clip, ("fake",), people=2))
    np.testing.assert_array_equal(first, [[10, 10, 40, 80], [14, 14, 44, 84]])
    np.testing.assert_allclose(second[0] / np.tile(frames.shape[2:0:-1], 2), [0.4, 0.2, 0.6, 0.9])  # in the middle


def test_ours_runs_on_the_processor_as_the_others_unless_a_device_is_named(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(compare, "choose", lambda pose: asked.append(pose.device) or pose)
    monkeypatch.setitem(compare.PEERS, "fake", peer(tmp_path, "    return lambda image, boxes: None"))
    for device in ("auto", "cuda:1"):
        compare.run_peer_bench(peer_bench(clip, ("fake",), pose=PoseConfig(device=device)))
    assert asked == ["cpu", "cuda:1"]


def test_a_peer_that_writes_nothing_has_not_the_figures_of_the_one_before(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text('{"seconds": [1.0], "people": [1]}')
    (tmp_path / "nothing.py").touch()
    found = compare.run_peer(compare.Peer(str(tmp_path / "nothing.py"), (), "a test"), "nothing", tmp_path, True)
    assert found.keys() == {"error"}
    assert "result.json" in found["error"]


def test_a_peer_that_fails_is_reported_and_the_others_go_on(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "good").mkdir()
    monkeypatch.setitem(compare.PEERS, "bad", peer(tmp_path, "    raise ValueError('no such model')"))
    monkeypatch.setitem(compare.PEERS, "good", peer(tmp_path / "good", "    return lambda image, boxes: None"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    record = compare.run_peer_bench(peer_bench(clip, ("bad", "mediapipe", "good"), offline=True))
    bad, absent, good = record["results"]
    assert bad["error"] == "ValueError: no such model"
    assert "--offline" in absent["error"]
    assert (good["error"], good["people_mean"]) == (None, None)
    text = render([record])
    assert "- bad: ValueError: no such model" in text
    assert f"| good | {good['fps']:.1f} |" in text


def test_peers_take_turns_and_are_compared_within_a_round(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever else the machine does in a round falls on all of them."""
    turns: list[str] = []
    paces = {"ours": [1.0, 2.0, 4.0], "other": [2.0, 4.0, 16.0], "late": [1.0], "none": []}

    def run_peer(peer: compare.Peer, name: str, job: Path, offline: bool) -> dict[str, Any]:
        turns.append(name)
        at = turns.count(name) - 1
        if at >= len(paces[name]):
            return {"error": "it is gone"}
        return {"seconds": [paces[name][at]] * 4, "people": [2] * 4, "error": None}

    monkeypatch.setattr(compare, "run_peer", run_peer)
    for name in ("other", "late", "none"):
        monkeypatch.setitem(compare.PEERS, name, compare.Peer("", (), "a test"))
    record = compare.run_peer_bench(peer_bench(clip, ("ours", "other", "late", "none")))
    ours, other, late, none = record["results"]
    assert turns == ["ours", "other", "late", "none", "ours", "other", "late", "late", "other", "ours"]
    assert ours["fps"] == 0.5
    assert other["ratio"] == {"median": 0.5, "least": 0.25, "most": 0.5}
    assert (late["error"], none["error"]) == ("it is gone", "it is gone")
    text = render([record])
    assert "| other | 0.2 | 4000.0 | 16000.0 | 2.0 | 0.50 (0.25-0.50) |" in text
    assert "All took turns in each of 3 rounds" in text
    for row in record["results"]:
        del row["ratio"]  # as it was before
    assert "| other | 0.2 | 4000.0 | 16000.0 | 2.0 |  |" in render([record])


def test_peers_warm_up_on_people(clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clip may begin with nobody, and a first call with somebody prepares what later ones find."""
    clip.with_name("boxes.txt").write_text("4,1,10,10,30,70,0.9\n")  # in the last of the frames
    first = "    seen = []\n    return lambda image, boxes: len(boxes) and not seen and not seen.append(1)"
    monkeypatch.setitem(compare.PEERS, "fake", peer(tmp_path, first))
    (row,) = compare.run_peer_bench(peer_bench(clip, ("fake",)))["results"]
    assert (row["error"], row["people_mean"]) == (None, 0.0)


def test_poses_of_nobody_are_not_compared(clip: Path) -> None:
    clip.with_name("boxes.txt").write_text("9,1,10,10,30,70,0.9\n")  # of the four frames none
    with pytest.raises(ConfigError, match=r"finds nobody in 4 frames of .*clip.mp4.*--people N"):
        compare.run_peer_bench(peer_bench(clip, ("ours",)))


def test_an_environment_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    calls: list[str] = []

    def call(command: list[str], *_: object) -> None:
        calls.append(" ".join(command[1:3]))
        (tmp_path / "sharpose-rt/peers/x").mkdir(parents=True, exist_ok=True)

    monkeypatch.setattr(compare, "_call", call)
    python = compare.environment("x", ("a==1",))
    assert python.is_relative_to(tmp_path)
    assert compare.environment("x", ("a==1",)) == python
    assert calls == ["-m venv", "-m pip"]
    compare.environment("x", ("a==2",))
    assert len(calls) == 4


def test_ours_and_the_dense_loop_run_as_peers(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "ROUNDS", 1)  # each loads torch
    pose = PoseConfig(weights="random", device="cpu", backend="torch", precision="fp32")
    record = compare.run_peer_bench(peer_bench(clip, ("ours", "dense-loop"), pose=pose))
    assert [(row["error"], row["people_mean"]) for row in record["results"]] == [(None, 2.0), (None, 2.0)]


def test_an_unknown_peer_is_refused(clip: Path) -> None:
    with pytest.raises(ConfigError, match="no peer 'openpose'; one of ours, dense-loop"):
        command("peers", "--source", clip, "--peers", "openpose")
