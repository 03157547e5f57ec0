"""Options: defaults, presets, overrides, and what is said when they are wrong."""

from __future__ import annotations

import argparse
import math
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from raising import raising

from sharpose_rt import PoseTracker, SHaRPose
from sharpose_rt.cli import build_parser
from sharpose_rt.commands import evaluate, explain, weights
from sharpose_rt.commands.run_options import KEYS, build_config
from sharpose_rt.config import PoseConfig, RunConfig, SourceConfig, load, merge, preset_names, to_dict
from sharpose_rt.errors import ConfigError, WeightsError
from sharpose_rt.machine import cache, threads
from sharpose_rt.machine.cache import cache_dir
from sharpose_rt.machine.whole_files import whole, write_whole


def test_overrides_reach_their_section() -> None:
    config = load(None, ["smooth.method=none", "pose.quality_threshold=inf", "detector.every=3", "offline=true"])
    assert config.smooth.method == "none"
    assert config.pose.quality_threshold == float("inf")
    assert config.detector.every == 3
    assert config.offline
    assert config.tracker == RunConfig().tracker


OPTIONS = {
    "--output o": {"output.directory": "o"},
    "--overwrite": {"output.overwrite": True},
    "--record": {"output.record": True},
    "--no-video": {"output.video": False},
    "--split 60": {"output.split_s": 60},
    "--format csv,trc --option raw=true": {"output.formats": ("csv", "trc"), "output.format_options": ("raw=true",)},
    "--format pyskl --person-slots 3": {"output.formats": ("pyskl",), "output.person_slots": 3},
    "--format pyskl --fill hold": {"output.formats": ("pyskl",), "output.fill": "hold"},
    "--hide-faces": {"draw.faces": False},
    "--skeletons-only": {"draw.picture": False},
    "--model base_256x192": {"pose.model": "base_256x192"},
    "--weights random": {"pose.weights": "random"},
    "--behaviour paper": {"pose.behaviour": "paper"},
    "--quality-threshold=-inf": {"pose.quality_threshold": -math.inf},
    "--refine-from-px 50": {"pose.refine_from_px": 50},
    "--refine-from-gain 0.05": {"pose.refine_from_gain": 0.05},
    "--refine-every 3": {"pose.refine_every": 3},
    "--flip-test": {"pose.flip_test": True},
    "--device cpu": {"pose.device": "cpu"},
    "--backend torch": {"pose.backend": "torch"},
    "--precision fp32": {"pose.precision": "fp32"},
    "--detector bundled": {"detector.name": "bundled"},
    "--boxes full": {"detector.name": "full"},
    "--detector-size 640": {"detector.image_size": 640},
    "--min-person-score 0.3": {"detector.score_threshold": 0.3, "tracker.high_score": 0.3},
    "--detect-every 3": {"detector.every": 3},
    "--detect-every-if-sure 4": {"detector.every_if_sure": 4},
    "--region=0,0_90,9": {"detector.region": ((0, 0), (90, 9))},
    "--tracker bytetrack": {"tracker.name": "bytetrack"},
    "--smooth rts": {"smooth.method": "rts"},
    "--start 1": {"source.start_s": 1},
    "--end 2": {"source.end_s": 2},
    "--stride 3": {"source.stride": 3},
    "--max-frames 4": {"source.max_frames": 4},
    "--rotate 90": {"source.rotate": 90},
    "--filmed-fps 240": {"source.filmed_fps": 240},
    "--hwaccel auto": {"source.hwaccel": "auto"},
    "--rtsp-transport udp": {"source.rtsp_transport": "udp"},
    "--tls any": {"source.tls": "any"},
    "--camera-size 1280x720": {"source.camera_size_wh": (1280, 720)},
    "--camera-fps 60": {"source.camera_fps": 60},
    "--camera-format yuyv": {"source.camera_format": "yuyv"},
    "--open-timeout 3": {"source.open_timeout_s": 3},
    "--read-timeout 4": {"source.read_timeout_s": 4},
    "--reconnect inf": {"source.reconnect_s": math.inf},
    "--realtime": {"source.realtime": True},
    "--latency-budget-ms 120": {"budget.latency_ms": 120},
    "--target-fps 15": {"budget.target_fps": 15},
    "--offline": {"offline": True},
}


def flat(config: RunConfig) -> dict[str, Any]:
    return {
        f"{section}.{name}" if name else section: value
        for section, values in vars(config).items()
        for name, value in (vars(values).items() if is_dataclass(values) else [("", values)])
    }


@pytest.mark.parametrize(("option", "wanted"), OPTIONS.items(), ids=lambda value: str(value)[:24])
def test_an_option_of_a_run_sets_its_keys_and_no_other(option: str, wanted: dict[str, Any]) -> None:
    given = [text.replace("_90", " 90") for text in option.split()]
    before, after = (
        flat(build_config(build_parser().parse_args(["track", "--source", "x", *more]))) for more in ([], given)
    )
    assert {key: value for key, value in after.items() if value != before[key]} == wanted


def test_every_option_of_a_run_is_tried() -> None:
    tried = {text.partition("=")[0] for options in OPTIONS for text in options.split()}
    assert {f"--{name.replace('_', '-')}" for name in KEYS} <= tried


def test_given_boxes_pass_the_thresholds_that_nobody_set() -> None:
    def scores(config: RunConfig) -> tuple[float, float]:
        return config.detector.score_threshold, config.tracker.high_score

    given = PoseTracker(detector={"name": "boxes.json"}).config
    assert scores(given) == (0, 0)
    assert scores(merge(given, {"detector": {"name": "bundled"}}, "again")) == scores(RunConfig()) == (0.25, 0.5)
    asked = ["tracker.high_score=0.5", "detector.score_threshold=0.25", "detector.name=boxes.txt"]
    assert scores(load(None, asked)) == (0.25, 0.5)


@pytest.mark.parametrize(
    ("command", "arguments"),
    [(evaluate, ["--annotations", "a", "--images", "b"]), (weights, ["onnx", "o"]), (explain, ["x.png"])],
)
def test_commands_take_the_model_that_a_run_takes(
    monkeypatch: pytest.MonkeyPatch, command: Any, arguments: list[str]
) -> None:
    monkeypatch.setattr(PoseConfig, "model", "another")
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    assert parser.parse_args(arguments).model == "another"


def test_every_preset_loads() -> None:
    assert {"file", "live"} <= set(preset_names())
    for name in preset_names():
        assert isinstance(load(name), RunConfig)


def test_a_file_changes_only_what_it_names(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("draw:\n  boxes: false\nsource:\n  camera_size_wh: [640, 480]\n")
    config = load(str(file), ["draw.trail_s=2"])
    assert (config.draw.boxes, config.draw.trail_s, config.draw.ids) == (False, 2.0, True)
    assert config.source.camera_size_wh == (640, 480)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["smoth.method=none"], "did you mean 'smooth'"),
        (["smooth.methode=none"], "did you mean 'method'"),
        (["smooth=none"], "a section of options is accepted"),
        (["smooth.method=magic"], "kalman, rts, none"),
        (["pose.device=gpu"], "'cuda:N'"),
        (["pose.quality_threshold=.nan"], "nan"),
        (["detector.every=0"], "at least 1"),
        (["detector.every=1.5"], "int is accepted"),
        (["detector.every=true"], "int is accepted"),
        (["source.start_s=-1"], "at least 0"),
        (["output.video=3"], "bool is accepted"),
        (["pose.threads=None"], "int or null is accepted"),
        (["smooth.noise=.inf"], "at most 1000 is accepted"),
        (["smooth.acceleration=1e300"], "at most 1e+06 is accepted"),
        (["output.video"], "key=value"),
        (["output.video=[1"], "not YAML"),
    ],
)
def test_bad_options_say_what_is_accepted(overrides: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(None, overrides)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nonsense: 1", "unknown key 'nonsense'"),
        ("- 1", "a mapping of options is accepted"),
        ("a: [", "is not YAML"),
        ("pose:\n  modell: x", "pose.modell"),
        ("pose: {threads: 1}\nsmooth: {method: none}\npose: {max_batch: 2}", "'pose' occurs twice in one section"),
        ("smooth:\n  method: none\n  method: rts", "'method' occurs twice"),
        ("!!python/object/apply:os.system [echo]", "is not YAML"),
        ("# Größe\ndraw: {boxes: false}", "cannot read"),  # of an editor that writes Latin-1
    ],
)
def test_bad_files_name_file_and_key(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(text, encoding="latin-1")
    with pytest.raises(ConfigError) as caught:
        load(str(file))
    assert said in str(caught.value)
    assert "bad.yaml" in str(caught.value)


def test_what_yaml_merges_is_not_given_twice(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("smooth: &mine {min_score: 0.2}\ndraw: {<<: *mine, boxes: false}\ntracker: {high_score: 0.4}\n")
    config = load(str(file))
    assert (config.smooth.min_score, config.draw.min_score, config.draw.boxes) == (0.2, 0.2, False)


def test_lists_are_checked_item_by_item() -> None:
    assert load(None, ["source.camera_size_wh=[1280, 720]"]).source.camera_size_wh == (1280, 720)
    for text, said in (
        ("output.formats=[1]", r"output\.formats, item 0 is 1; str is accepted"),
        ("output.formats=csv", r"a list, \[str, \.\.\.\], is accepted"),
        ("source.camera_size_wh=[a, b]", "item 0 is 'a'; int"),
        ("source.camera_size_wh=[1280.5, 720]", r"item 0 is 1280\.5; int"),
        ("source.camera_size_wh=1280x720", r"a list, \[int, int\], or null is accepted"),
        ("source.camera_size_wh=[1, 2, 3]", r"a list, \[int, int\], or null is accepted"),
    ):
        with pytest.raises(ConfigError, match=said):
            load(None, [text])


def test_a_program_gives_paths_and_numbers_of_numpy(tmp_path: Path) -> None:
    assert PoseTracker(Path("tiny_256x192")).config.pose.model == "tiny_256x192"
    with pytest.raises(WeightsError, match=r"there is no file .*rtmpose\.onnx"):
        PoseTracker(tmp_path / "rtmpose.onnx")
    with pytest.raises(WeightsError, match=r"there is no file .*rtmpose\.onnx"):
        SHaRPose(tmp_path / "rtmpose.onnx")
    with pytest.raises(ConfigError, match=r"PoseTracker: pose\.model is 3; str is accepted"):
        PoseTracker(3)  # type: ignore[arg-type]
    config = PoseTracker(
        detector={"every": np.int64(3), "region": np.array([[0, 0], [9, 0], [9, 9]])},
        pose={"weights": tmp_path / "mine.safetensors", "quality_threshold": np.float32(0.5)},
        draw={"boxes": np.bool_(False), "trail_s": torch.tensor(0.25)},
    ).config
    assert (config.detector.every, config.detector.region[1]) == (3, (9.0, 0.0))
    assert (config.pose.weights, config.pose.quality_threshold) == (str(tmp_path / "mine.safetensors"), 0.5)
    assert (config.draw.boxes, config.draw.trail_s) == (False, 0.25)
    assert {type(config.detector.every), type(config.pose.quality_threshold)} == {int, float}
    for value in (np.float64(1.5), np.bool_(True), np.array([3, 4]), Path("3")):
        with pytest.raises(ConfigError, match=r"detector\.every is .*; int is accepted"):
            PoseTracker(detector={"every": value})


def test_unknown_preset_offers_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'live'"):
        load("liv")
    with pytest.raises(ConfigError, match="no configuration file"):
        load("nowhere/x.yaml")


def test_sections_check_themselves() -> None:
    with pytest.raises(ConfigError, match="above 5"):
        SourceConfig(start_s=5, end_s=5)
    with pytest.raises(ConfigError, match="at most 1024"):
        PoseConfig(max_batch=5000)


@pytest.mark.parametrize(
    ("section", "values"),
    [
        ("source", "start_s=2e9 end_s=-1 stride=0 max_frames=0 image_fps=0 filmed_fps=0 camera_fps=0 reconnect_s=-1"),
        (
            "source",
            "camera_size_wh=[0,9] camera_format=raw open_timeout_s=0 read_timeout_s=0 rtsp_transport=ftp tls=''",
        ),
        ("source", "rotate=45 hwaccel=gpu max_bad_frames=-1"),
        ("detector", "score_threshold=1.5 iou_threshold=1.5 image_size=31 every_if_sure=-1 max_people=0 pixels=rgba"),
        ("tracker", "name=sort high_score=1.5 match_threshold=1.5 min_detections=0 max_lost_s=-1 remember_s=-1"),
        ("tracker", "scene_cut=256"),
        ("pose", "behaviour=own backend=onnx precision=fp8 refine_from_gain=2 refine_from_px=-1 refine_every=0"),
        ("pose", "threads=0 box_padding=5 pixels=rgba coarse_padding=5 max_batch=0"),
        ("budget", "latency_ms=0 target_fps=0 longest_detect_every=0"),
        ("smooth", "min_score=1.5 hold_s=-1 fade_s=-1"),
        ("draw", "min_score=1.5 trail_s=-1"),
        ("output", "crf=52 split_s=0.5 fill=copy person_slots=0"),
        ("live", "picture_px=63 wall_px=63 picture_quality=0 picture_fps=0 history_s=0 video_px=63 video_kbps=99"),
        ("live", "publish_queue=0"),
    ],
)
def test_what_is_out_of_range_is_refused_by_name(section: str, values: str) -> None:
    for item in values.split():
        with pytest.raises(ConfigError, match=rf"{section}\.{item.partition('=')[0]} is .*accepted"):
            load(None, [f"{section}.{item}"])


def test_to_dict_and_back() -> None:
    config = load("live", ["pose.flip_test=true"])
    plain = to_dict(config)
    assert merge(RunConfig(), plain, where="round trip") == config


@pytest.mark.parametrize(
    ("own", "files", "wanted"),
    [
        (None, {"cpu.max": "200000 100000\n"}, 2),  # a container sees its own group as the first one
        (None, {"cpu.max": "150000 100000\n"}, 2),
        (None, {"cpu.max": "1000 100000\n"}, 1),
        (None, {"cpu.max": "max 100000\n"}, 64),
        (None, {"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3),
        (None, {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 64),
        (None, {"cpu.max": "what is this\n"}, 64),
        (None, {}, 64),
        ("0::/system.slice/pose.service\n", {"system.slice/pose.service/cpu.max": "150000 100000"}, 2),
        ("0::/a.slice/pose.service\n", {"a.slice/pose.service/cpu.max": "max 100000", "a.slice/cpu.max": "3 1"}, 3),
        (
            "1:name=systemd:/x\n4:cpu,cpuacct:/low\n",
            {"cpu/low/cpu.cfs_quota_us": "5", "cpu/low/cpu.cfs_period_us": "1"},
            5,
        ),
        ("0::/docker/abc\n", {"cpu.max": "200000 100000"}, 2),  # the host's path, which is not there
        ("0::/../../other\n", {}, 64),
        ("what is this\n", {}, 64),
    ],
)
def test_a_container_and_a_service_have_the_cores_that_their_groups_leave(monkeypatch, tmp_path, own, files, wanted):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_text(text)
    if own is not None:
        (tmp_path / "own").write_text(own)
    monkeypatch.setattr(threads, "CGROUPS", tmp_path)
    monkeypatch.setattr(threads, "OWN_GROUPS", tmp_path / "own")
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(64)), raising=False)
    assert threads.cores() == wanted


@pytest.mark.parametrize(
    ("count", "network", "detector", "media"), [(1, 1, 1, 1), (2, 2, 1, 1), (4, 3, 1, 1), (8, 6, 2, 2), (64, 8, 4, 4)]
)
def test_the_cores_are_shared_out(monkeypatch, count, network, detector, media):
    monkeypatch.setattr(threads, "cores", lambda: count)
    assert (threads.network_threads(None), threads.detector_threads(None), threads.media_threads()) == (
        network,
        detector,
        media,
    )


def test_what_does_not_hold_alone_may_hold_with_what_follows(tmp_path):
    (tmp_path / "part.yaml").write_text("source: {end_s: 5}\nsmooth: {noise: 1e-2}\n")
    assert load(str(tmp_path / "part.yaml")).smooth.noise == 0.01
    part = load(str(tmp_path / "part.yaml"), ["source.start_s=10", "source.end_s=20"]).source
    assert (part.start_s, part.end_s) == (10, 20)
    formats = load(None, ["output.person_slots=2"], options={"output": {"formats": ("pyskl",)}}).output
    assert (formats.person_slots, formats.formats) == (2, ("pyskl",))
    with pytest.raises(ConfigError, match=r"--set: source\.end_s is 5; above 10 is accepted"):
        load(str(tmp_path / "part.yaml"), ["source.start_s=10", "smooth.method=none"])


@pytest.mark.parametrize("text", ["detector: 3", "detector:", "smooth: {method: {kalman: 1}}", "detector: [every, 2]"])
def test_what_is_no_section_stays_an_error_whatever_follows(tmp_path, text):
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    options = {"detector": {"name": "bundled"}, "smooth": {"method": "none"}}
    with pytest.raises(ConfigError, match=rf"bad\.yaml: {text.partition(':')[0]}"):
        load(str(file), ["detector.every=2"], options=options)


def test_a_tracker_refuses_a_model_that_is_not_there():
    with pytest.raises(ConfigError, match="no model 'tyni'; one of tiny_256x192"):
        PoseTracker("tyni")
    with pytest.raises(ConfigError, match="no model 'tyni'"):
        PoseTracker(pose={"model": "tyni"})


def test_where_nothing_may_be_written_the_cache_is_a_place_that_cannot_be(monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)

    monkeypatch.setattr(cache, "TemporaryDirectory", raising(FileNotFoundError("No usable temporary directory found")))
    monkeypatch.setattr(cache.Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    cache._for_this_process.cache_clear()
    try:
        folder = cache.cache_dir()
        assert cache.recall(folder / "backends.json") == {}
        assert not cache.remember(folder / "backends.json", "here", {"torch": 1.0})
    finally:
        cache._for_this_process.cache_clear()


def test_without_a_home_things_are_kept_for_the_process_and_that_is_said(monkeypatch, caplog):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", raising(RuntimeError("Could not determine home directory.")))
    cache._for_this_process.cache_clear()
    with caplog.at_level("INFO"):
        folder = cache_dir()
    assert folder == cache_dir()
    assert f"kept in {folder} while this program runs" in caplog.text
    assert "set XDG_CACHE_HOME to a lasting folder" in caplog.text
    assert (folder.stat().st_mode & 0o077) == 0


def test_a_text_is_written_whole_or_the_old_one_stays(tmp_path, monkeypatch):
    path = tmp_path / "new" / "a.json"
    write_whole(path, "first")
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError("no space left")))
    with pytest.raises(OSError, match="no space"):
        write_whole(path, "second")
    assert [file.read_text() for file in path.parent.iterdir()] == ["first"]


def test_what_was_not_written_to_its_end_is_not_left(tmp_path):
    path = tmp_path / "new" / f"{'é' * 120}.bin"  # a longer name than this the disk would not take
    with whole(path) as part:
        part.write_bytes(b"first")
        assert not path.exists()
    with pytest.raises(UnicodeEncodeError), whole(path) as part:
        part.write_text("second, \ud800", encoding="utf-8")  # which has begun a file by then
    assert [(file.name, file.read_bytes()) for file in path.parent.iterdir()] == [(path.name, b"first")]
