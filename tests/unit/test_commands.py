"""The commands beside `track`: models, weights, explain, doctor, demo."""

from __future__ import annotations

import argparse
import errno
import io
import json
import logging
import pickle
import re
import struct
import subprocess
import sys
import zipfile
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import av
import cv2
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from sharpose_rt.cli import build_parser, main
from sharpose_rt.commands import demo, doctor, explain, models, track, weights
from sharpose_rt.engine.explain import Explanation
from sharpose_rt.errors import ConfigError, DetectorError, OutputError, SharposeError, SourceError, WeightsError
from sharpose_rt.media import expand_sources, open_source
from sharpose_rt.media.demo_clip import SHOTS, SIZE_WH, make_demo_clip, read_photograph
from sharpose_rt.models import VARIANTS, Variant
from sharpose_rt.models.gate import Gate
from sharpose_rt.models.variants import RELEASED
from sharpose_rt.skeleton import COCO17
from tests.golden_rule import golden_model, golden_state_dict
from tests.raising import raising

MINI = Variant("mini", (128, 96), width=48, heads=3, alpha=0.5, sigma_cells=2, depth=4)


def call(command, *arguments: object) -> int:
    """The command's exit status, as the command line would call it."""
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.run(parser.parse_args([str(a) for a in arguments]))


@pytest.fixture(autouse=True)
def _mini(monkeypatch):
    monkeypatch.setitem(VARIANTS, "mini", MINI)


@pytest.fixture(scope="session")
def official(tmp_path_factory) -> Path:
    """A checkpoint as the authors released them, for MINI."""
    path = tmp_path_factory.mktemp("official") / "official.pth"
    torch.save({"state_dict": golden_state_dict(golden_model(MINI, RELEASED)), "meta": {"epoch": 210}}, path)
    return path


def _changed(official: Path, path: Path, change) -> Path:
    state = torch.load(official, weights_only=True)["state_dict"]
    change(state)
    torch.save({"state_dict": state}, path)
    return path


@pytest.mark.parametrize(
    "command", [models, weights, explain, doctor, demo], ids=lambda m: m.__name__.rpartition(".")[2]
)
def test_every_command_says_what_it_does(command, capsys):
    assert command.HELP
    assert command.__doc__
    with pytest.raises(SystemExit) as left:
        call(command, "--help")
    assert left.value.code == 0
    assert "usage" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("walk.mp4", "did you mean `sharpose-rt --source walk.mp4`?"),
        ("rtsp://host/x", "did you mean `sharpose-rt --source rtsp://host/x`?"),
        ("webcam", "did you mean `sharpose-rt --source webcam`?"),
        ("trak", "did you mean 'track'?"),
        ("xyz", "is not a command; track, demo"),
    ],
)
def test_a_word_that_is_no_command(word, said, capsys):
    assert main([word, "--max-frames", "1"]) == 2
    assert said in capsys.readouterr().err


def test_a_threshold_of_minus_infinity_is_no_option(capsys):
    assert main(["--source", "nowhere.mp4", "--quality-threshold", "-inf"]) == 2
    assert "nowhere.mp4" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "command", "said"),
    [
        (["--sorce", "x"], "track", "no option '--sorce' (did you mean '--source'?)"),
        (["-sorce", "x"], "track", "no option '-sorce' (did you mean '--source'?)"),
        (["--source", "x", "--detector-sise=3"], "track", "(did you mean '--detector-size'?)"),
        (["--source", "x", "--token", "-abc"], "track", "to pass a value that begins with a dash, write --token=-abc"),
        (["--source", "x", "--qqq"], "track", "no option '--qqq'"),
        (["--source", "x", "--detec", "3"], "track", "no option '--detec' (did you mean '--detector'?)"),
        (["--source", "x", "--conf", "0.5"], "track", "no option '--conf' (did you mean '--config'?)"),
        (["--source", "x", "--camera-size", "-5"], "track", "argument --camera-size: '-5' is not a size"),
        (["--source", "x", "y"], "track", "unrecognized arguments: y"),
        (["track", "--", "--sorce"], "track", "the following arguments are required: --source"),
        (["weights", "--modle", "tiny_256x192", "import"], "weights", "no option '--modle'"),
        (["weights", "import", "a.pth", "--modle", "b"], "weights import", "(did you mean '--model'?)"),
        (["weights", "imprt", "a.pth", "--model", "b"], "weights", "invalid choice: 'imprt'"),
        (["--source", "x", "--region", "1,2,3"], "track", "'1,2,3' is not a list of points; 'X,Y X,Y ...' in px is "),
        (["--source", "x", "--region", "a b"], "track", "'a b' is not a list of points"),
        (["--source", "x", "--reconnect", "x"], "track", "'x' is not a number, such as 0.9, inf or -inf"),
        (["demo", "--seconds", "0.1"], "demo", "0.1 is not accepted; use 0.2 to 600 seconds"),
        (["demo", "--seconds", "601"], "demo", "601 is not accepted"),
        (["replay", "a", "--people", "1,0"], "replay", "'1,0' is not a list of ids; whole numbers from 1 are accepted"),
        (["replay", "a", "--people", "x"], "replay", "'x' is not a list of ids"),
        *((["weights", "import", "a", "b", "--model", "m", "--attention-scale", text], "weights import",
           f"'{text}' is not a finite number above 0") for text in ("0", "inf", "nan", "x")),
        *((["weights", "import", "a", "b", "--model", "m", "--quality-threshold", text], "weights import",
           f"'{text}' is not a number; inf and -inf are accepted") for text in ("nan", "x")),
    ],
)  # fmt: skip
def test_a_wrong_option_or_value_is_told_in_one_line(arguments, command, said, capsys):
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"sharpose-rt {command}: error: ")
    assert said in line
    assert line.endswith(f"; see `sharpose-rt {command} --help`")


LONG = "x" * 300  # longer than a name of a file may be


@pytest.mark.parametrize(
    "arguments",
    [
        ["explain", f"{LONG}.jpg"],
        ["--source", "x.mp4", "--config", f"{LONG}.yaml"],
        ["convert", "--from", "openpose", "--fps", "25", "--frame-size", "64x64", LONG],
        ["weights", "show", f"{LONG}.safetensors"],
    ],
)
def test_what_may_not_be_looked_at_is_told_in_one_line(arguments, capsys):
    assert main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert LONG in line
    assert "cannot be accessed (File name too long)" in line


@pytest.mark.parametrize("said", ["could not create a primitive", "core.cpp:117:\ncan't alloc", "std::bad_alloc"])
def test_short_memory_is_told_in_any_words(said, monkeypatch, capsys):
    monkeypatch.setattr(models, "run", raising(RuntimeError(said)))
    assert main(["models"]) == 2
    assert "too little memory" in capsys.readouterr().err


class Full(io.StringIO):
    """A file on a disk that is full."""

    def write(self, _: str) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_is_told_and_a_full_log_changes_no_status(monkeypatch, capsys):
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", Full())
        assert main(["validate", str(Path(__file__).parents[2] / "samples" / "demo.skeletons.jsonl")]) == 2
    assert "cannot print or write (" in capsys.readouterr().err
    with monkeypatch.context() as patch:  # ended before `capsys`, whose own it would put back for good
        patch.setattr(sys, "stderr", Full())
        assert main(["xyz"]) == 2


def test_a_word_that_no_file_can_have_as_a_name_is_no_command(capsys):
    assert main([LONG]) == 2
    assert "is not a command" in capsys.readouterr().err


@pytest.mark.parametrize(
    "given",
    [["--serve="], ["--serve", ""], ["--output", ""], ["--publish", "-", "--token", "", "--quiet"], ["--boxes", ""]],
)
def test_an_option_without_a_value_is_told_and_not_passed_over(given, capsys):
    with pytest.raises(SystemExit) as left:
        main(["--source", "nowhere.mp4", *given])
    assert left.value.code == 2
    assert ": the value is empty, perhaps from a shell variable" in capsys.readouterr().err


def test_a_glob_that_the_shell_took_is_told_to_be_quoted(tmp_path, capsys):
    names = [str(tmp_path / f"{number}.jpg") for number in range(6)]
    for name in names:
        Path(name).touch()
    with pytest.raises(SystemExit):
        main(["--source", *names])
    said = capsys.readouterr().err
    assert f"unrecognized arguments: {' '.join(names[1:4])} and 2 more; these are files" in said
    assert "quote the glob" in said
    assert names[4] not in said


def test_a_folder_of_folders_names_the_glob_that_looks_into_them(tmp_path):
    (tmp_path / "monday").mkdir()
    cv2.imwrite(str(tmp_path / "monday" / "picture.jpg"), np.zeros((64, 64, 3), np.uint8))
    pattern = f"{tmp_path}/**/*.jpg"
    with pytest.raises(SourceError, match="has no image or video") as raised:
        expand_sources(str(tmp_path))
    assert f"'{pattern}'" in str(raised.value)
    assert expand_sources(pattern) == [pattern]


def test_options_have_values_of_any_kind():
    given = ["--source", "x", "--no-video", "--token=-a=b c", "--publish", "-", "--start", "-3", "--region", "-5,3 2,2"]
    args = build_parser().parse_args(["track", *given, "--set=smooth.method=none"])
    assert (args.no_video, args.token, args.publish, args.start) == (True, "-a=b c", ["-"], -3)
    assert (args.region, args.set) == (((-5, 3), (2, 2)), ["smooth.method=none"])
    assert build_parser().parse_args(["validate", "--", "--sorce"]).files == ["--sorce"]


@pytest.mark.parametrize(
    ("words", "title"),
    [
        (["help"], "sharpose-rt [-h]"),
        (["help", "track"], "sharpose-rt track"),
        (["help", "weights", "import"], "sharpose-rt weights import"),
        (["track", "--sorce", "--help"], "sharpose-rt track"),
    ],
)
def test_help_is_a_command_too(words, title, capsys):
    with pytest.raises(SystemExit) as left:
        main(words)
    assert left.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: {title}")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--max-frames", "-3"], "error: --max-frames: source.max_frames is -3; at least 1 is accepted"),
        (["--boxes", "x.txt", "--detect-every", "0"], "error: --detect-every: detector.every is 0; at least 1"),
        (["--min-person-score", "2"], "error: --min-person-score: detector.score_threshold is 2; at least 0 and at"),
        (["--person-slots", "2"], "error: --person-slots: output.person_slots needs"),
        (["--set", "source.end_s=5", "--start", "9"], "error: command line: source.end_s is 5; above 9"),
        (["--set", "source.stride=0", "--start", "9"], "error: --set: source.stride is 0"),
    ],
)
def test_a_bad_value_is_told_by_its_option(options, said, capsys):
    assert main(["--source", "nowhere.mp4", *options]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("spec", ["", "  ", "file://"])
def test_a_source_that_is_not_named_is_not_the_current_folder(spec, tmp_path, monkeypatch, capsys):
    cv2.imwrite(str(tmp_path / "picture.png"), np.zeros((64, 64, 3), np.uint8))
    monkeypatch.chdir(tmp_path)
    assert expand_sources(".") == ["."]
    assert main(["--source", spec]) == 2
    assert f"the source is {spec!r}, which names nothing" in capsys.readouterr().err
    with pytest.raises(SourceError, match="names nothing"):
        open_source(spec)


# models


@pytest.fixture
def two_variants():
    """These alone; afterwards all of them, in the order that they had, which messages go by."""
    every, keep = dict(VARIANTS), ("tiny_256x192", "base_256x192")
    for name in every.keys() - set(keep):
        del VARIANTS[name]
    yield keep
    VARIANTS.clear()
    VARIANTS.update(every)


def test_models_lists_what_is_computed(capsys, two_variants):
    keep = two_variants
    assert call(models, "--json") == 0
    listed = json.loads(capsys.readouterr().out)
    assert listed["behaviour"] == "released"
    rows = {row["name"]: row for row in listed["models"]}
    assert set(rows) == set(keep)
    base = rows["base_256x192"]
    assert base["parameters"] / 1e6 == pytest.approx(94.12, rel=0.01)
    assert base["dense_gmacs"] == pytest.approx(17.06, rel=0.01)
    assert (base["coarse_tokens"], base["fine_tokens"]) == (66, 125)
    assert call(models, "--behaviour", "paper") == 0
    printed = capsys.readouterr().out
    line = next(line for line in printed.splitlines() if line.startswith("base_256x192"))
    assert line.split()[1:5] == ["256x192", "768", "66/122", "94.12"]
    assert "…" not in printed  # nothing is cut off where the output is no terminal


# weights


def test_import_then_show(official, tmp_path, capsys):
    target = tmp_path / "new" / "ours.safetensors"
    options = ("--attention-scale", 0.2, "--quality-threshold", 0.9)
    assert call(weights, "import", official, target, "--model", "mini", *options) == 0
    with safe_open(target, framework="pt") as file:
        metadata = file.metadata()
    assert metadata["model"] == "mini"
    assert metadata["behaviour"] == "released"
    assert (float(metadata["attention_scale"]), float(metadata["quality_threshold"])) == (0.2, 0.9)
    capsys.readouterr()

    count = sum(p.numel() for p in golden_model(MINI, RELEASED).parameters())
    assert call(weights, "show", target, "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["parameters"], facts["types"], facts["metadata"]) == (count, "F32", metadata)
    assert len(facts["sha256"]) == 64
    assert call(weights, "show", official, "--json") == 0
    assert json.loads(capsys.readouterr().out)["parameters"] == count
    assert call(weights, "show", target) == 0
    assert facts["sha256"] in capsys.readouterr().out


def test_an_existing_file_is_not_overwritten_unasked(official, tmp_path):
    target = tmp_path / "ours.safetensors"
    target.write_bytes(b"precious")
    with pytest.raises(OutputError, match="--overwrite"):
        call(weights, "import", official, target, "--model", "mini")
    assert target.read_bytes() == b"precious"
    assert call(weights, "import", official, target, "--model", "mini", "--overwrite") == 0
    assert target.stat().st_size > 1000


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: s.pop("backbone.norm.bias"), "missing: backbone.norm.bias"),
        (lambda s: s.update({"backbone.extra": torch.ones(1)}), "surplus: backbone.extra"),
        (
            lambda s: s.update({"backbone.keypoint_tokens": torch.ones(1, 16, 48)}),
            r"weights for 16 keypoints, model with 17",
        ),
        (lambda s: s.clear(), "no table of tensors"),
    ],
    ids=["missing", "surplus", "keypoints", "empty"],
)
def test_a_checkpoint_that_does_not_fit_is_refused_by_name(change, said, official, tmp_path):
    source = _changed(official, tmp_path / "changed.pth", change)
    target = tmp_path / "ours.safetensors"
    with pytest.raises(WeightsError, match=said):
        call(weights, "import", source, target, "--model", "mini")
    assert not target.exists()


class _Malicious:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("container", ["torch", "pickle"])
@pytest.mark.parametrize("action", ["import", "show"])
def test_a_file_with_code_is_refused_and_nothing_runs(container, action, tmp_path):
    mark, source = tmp_path / "it_ran", tmp_path / "bad.pth"
    if container == "torch":
        torch.save({"state_dict": {"x": torch.ones(1)}, "meta": _Malicious(mark)}, source)
    else:
        source.write_bytes(pickle.dumps(_Malicious(mark), protocol=2))
    rest = (tmp_path / "out.safetensors", "--model", "mini") if action == "import" else ()
    with pytest.raises(WeightsError, match="refused"):
        call(weights, action, source, *rest)
    assert not mark.exists()
    torch.load(source, weights_only=False) if container == "torch" else pickle.loads(source.read_bytes())
    assert mark.exists()  # the file really would have done it


def test_show_says_in_which_numbers_a_checkpoint_is(official, tmp_path, capsys):
    halve = lambda state: state.update({name: value.half() for name, value in state.items()})  # noqa: E731
    half = _changed(official, tmp_path / "half.pth", halve)
    for path, types in ((official, "float32"), (half, "float16")):
        assert call(weights, "show", path, "--json") == 0
        assert json.loads(capsys.readouterr().out)["types"] == types
    assert call(weights, "import", half, tmp_path / "out.safetensors", "--model", "mini") == 0


def test_why_a_checkpoint_is_refused_is_said_without_torchs_advice_to_trust_it(tmp_path):
    for content, said in (({"state_dict": torch.nn.Linear(2, 2)}, "Linear"), (b"no checkpoint at all", "operand")):
        source = tmp_path / "bad.pth"
        source.write_bytes(content) if isinstance(content, bytes) else torch.save(content, source)
        with pytest.raises(WeightsError, match=said) as refused:
            call(weights, "show", source)
        assert "trust" not in str(refused.value)


def test_weights_that_are_not_finite_are_refused(official, tmp_path):
    from sharpose_rt.models.weights import load_model, save_weights

    astray = lambda state: next(iter(state.values())).fill_(torch.nan)  # noqa: E731
    checkpoint, ours = _changed(official, tmp_path / "nan.pth", astray), tmp_path / "nan.safetensors"
    model, _ = load_model("mini", "random")
    next(iter(model.parameters())).data.fill_(torch.inf)
    save_weights(model, ours)
    for path in (checkpoint, ours):
        with pytest.raises(WeightsError, match=r"not finite \(.*; 1 of \d+ tensors\)"):
            load_model("mini", str(path))


@pytest.mark.parametrize("core", ["core", "_core"])
def test_what_mmcv_tells_of_the_run_is_passed_over(core, official, tmp_path):
    """The best AP so far is a number of numpy's, which torch refuses; numpy 1 and 2 have it in another place."""
    state = torch.load(official, weights_only=True)["state_dict"]
    plain, source = tmp_path / "plain.pth", tmp_path / "mmcv.pth"
    told = {"hook_msgs": {"best_score": np.float64(0.755), "others": np.arange(3)}}
    torch.save({"meta": told, "state_dict": state}, plain, pickle_protocol=2)
    with zipfile.ZipFile(plain) as old, zipfile.ZipFile(source, "w") as new:
        for name in old.namelist():
            new.writestr(name, old.read(name).replace(b"numpy._core.", f"numpy.{core}.".encode()))
    assert call(weights, "import", source, tmp_path / "out.safetensors", "--model", "mini") == 0


@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.99])
def test_a_truncated_checkpoint_is_refused(keep, official, tmp_path):
    data, cut = official.read_bytes(), tmp_path / "cut.pth"
    cut.write_bytes(data[: keep if isinstance(keep, int) else int(keep * len(data))])
    with pytest.raises(WeightsError, match="cannot read"):
        call(weights, "import", cut, tmp_path / "out.safetensors", "--model", "mini")


def test_metadata_does_not_steer_the_terminal(tmp_path, capsys):
    path = tmp_path / "odd.safetensors"
    save_file({"x": torch.ones(1)}, path, {"evil\x1b[2J": "a\x1b]0;b\x07\r\n\x9bc \u202ed 木\u3000"})
    assert call(weights, "show", path) == 0
    *_, last = capsys.readouterr().out.splitlines()
    assert last.split(None, 1) == [r"evil\x1b[2J", r"a\x1b]0;b\x07\r\n\x9bc \u202ed 木" + "\u3000"]


def test_other_wrong_use_of_weights(official, tmp_path):
    with pytest.raises(WeightsError, match="no file"):
        call(weights, "import", tmp_path / "none.pth", tmp_path / "out.safetensors", "--model", "mini")
    with pytest.raises(ConfigError, match="no model 'huge'"):
        call(weights, "import", official, tmp_path / "out.safetensors", "--model", "huge")
    with pytest.raises(OutputError, match=r"\.safetensors is accepted"):
        call(weights, "import", official, tmp_path / "out.pth", "--model", "mini")
    with pytest.raises(OutputError, match="cannot be written"):
        call(weights, "import", official, official / "out.safetensors", "--model", "mini")
    with pytest.raises(WeightsError, match="no file"):
        call(weights, "show", "none.safetensors")
    with pytest.raises(WeightsError, match="ends in"):
        call(weights, "show", __file__)
    with pytest.raises(SystemExit):
        call(weights, "import", official, tmp_path / "o.safetensors", "--model", "mini", "--attention-scale", "-1")


# explain


@pytest.fixture
def photograph(tmp_path) -> Path:
    path = tmp_path / "photo.png"
    image = np.random.default_rng(0).integers(0, 256, (12, 9, 3), np.uint8).repeat(20, 0).repeat(20, 1)
    cv2.imwrite(str(path), image)
    return path


def test_explain_writes_a_figure_for_each_person(photograph, official, tmp_path, capsys):
    options = ("--model", "mini", "--weights", official, "--device", "cpu", "--precision", "fp32")
    boxes = "10,20,90,200;60,30,170,230"
    assert call(explain, photograph, "--boxes", boxes, *options, "--output", tmp_path / "o") == 0
    figures = sorted((tmp_path / "o").iterdir())
    assert [f.name for f in figures] == ["photo.person1.png", "photo.person2.png"]
    picture = cv2.imread(str(figures[0]))
    assert picture is not None
    assert picture.shape[1] > 1000
    assert "quality" in capsys.readouterr().out


def test_explain_replaces_nothing_unasked(photograph, official, tmp_path):
    options = ("--model", "mini", "--weights", official, "--device", "cpu", "--output", tmp_path / "o")
    for boxes, more in (("0,0,60,90;60,0,120,90", ()), ("full", ()), ("full", ("--overwrite",))):
        assert call(explain, photograph, "--boxes", boxes, *options, *more) == 0
        stem = photograph.stem
        names = {path.name for path in (tmp_path / "o").iterdir()}
        first = {f"{stem}.person1.png"} if more else {f"{stem}.person1.png", f"{stem}.person2.png"}
        assert names == first | ({f"{stem}-2.person1.png"} if boxes == "full" else set())


def test_explain_draws_what_was_found(tmp_path):
    """Selected cells are yellow-rimmed, a crop that left early has no fine stage."""
    selected = np.zeros((4, 3), bool)
    selected[1, 1] = True
    rng = np.random.default_rng(0)
    points, scores = rng.uniform(10, 80, (17, 2)).astype(np.float32), np.ones(17, np.float32)
    crop = np.full((128, 96, 3), 128, np.uint8)
    attention = selected / selected.sum()
    heatmap = rng.random((32, 24)).astype(np.float32)
    found = Explanation(
        crop, attention.astype(np.float32), selected, heatmap, points, scores, heatmap, points, scores, 0.5, 0.1
    )
    left = Explanation(
        crop, attention.astype(np.float32), selected, heatmap, points, scores, None, None, None, 0.97, 0.1
    )
    pictures = []
    for name, explanation in (("found", found), ("left", left)):
        explain.draw(explanation, COCO17, "person", Gate(0.9), tmp_path / f"{name}.png")
        pictures.append(cv2.imread(str(tmp_path / f"{name}.png")))
    yellow = [(np.abs(p.astype(int) - (0x4D, 0xE1, 0xFF)).max(-1) < 40).sum() for p in pictures]
    assert min(yellow) > 100
    last_panels = [p[:, -p.shape[1] // 6 :] for p in pictures]
    assert last_panels[1].mean() < 0.6 * last_panels[0].mean()  # dark where nothing was computed


def test_explain_with_nobody_in_sight(photograph, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(explain, "_detect", lambda *_: (np.zeros((0, 4)), "hog"))
    assert call(explain, photograph, "--model", "mini", "--weights", "random", "--output", tmp_path / "o") == 1
    assert "--boxes full" in capsys.readouterr().out


def test_explain_looks_as_closely_as_a_run():
    """At people whom the usual look does not find."""
    bus = read_photograph(SHOTS[0].photograph)
    image = np.full((960, 1280, 3), 127, np.uint8)
    small = cv2.resize(bus, None, fx=0.16, fy=0.16, interpolation=cv2.INTER_AREA)
    image[400 : 400 + len(small), 500 : 500 + small.shape[1]] = small
    boxes, found_by = explain._detect(image, "bundled", "cpu", True)
    assert len(boxes) >= 2
    assert found_by.startswith("bundled")


@pytest.mark.parametrize("content", [None, b"", b"not a picture"], ids=["missing", "empty", "text"])
def test_explain_refuses_what_is_no_picture(content, tmp_path):
    path = tmp_path / "x.jpg"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SourceError, match="picture"):
        call(explain, path, "--weights", "random", "--boxes", "full")
    with pytest.raises(SourceError, match="a folder"):
        call(explain, tmp_path, "--weights", "random")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is '';"),
        ("1,2,3", "has 1,2,3; 'full' or"),
        ("1,2,3,x", "is '1,2,3,x';"),
        ("9,2,3,4", "has 9,2,3,4;"),
        ("nan,2,3,4", "has nan,2,3,4;"),
        ("900,2,930,40", "has 900,2,930,40, which is outside the picture of 180x240 pixels"),
        ("1,-9,5,-2", "has 1,-9,5,-2, which is outside"),
        ("1,2,3,4;;5,6,7,8", "is '1,2,3,4;;5,6,7,8';"),
    ],
)
def test_explain_refuses_bad_boxes(text, said):
    with pytest.raises(ConfigError, match=f"^--boxes {re.escape(said)}"):
        explain.parse_boxes(text, (180, 240))


def test_explain_reads_boxes():
    assert explain.parse_boxes("full", (180, 240)).tolist() == [[0, 0, 179, 239]]
    assert explain.parse_boxes(" 1,2,3.5,4; 5,6,70,80;", (180, 240)).tolist() == [[1, 2, 3.5, 4], [5, 6, 70, 80]]


def test_explain_needs_a_writable_folder(photograph, official, tmp_path):
    (tmp_path / "file").write_text("x")
    options = ("--model", "mini", "--weights", official, "--output", tmp_path / "file" / "o")
    with pytest.raises(OutputError, match="--output"):
        call(explain, photograph, "--boxes", "full", *options)


# doctor


def test_doctor_reports_every_check_and_agrees_with_its_status(tmp_path, capsys):
    status = call(doctor, "--json", "--output", tmp_path / "results")
    report = json.loads(capsys.readouterr().out)
    checks = {check["name"]: check for check in report["checks"]}
    assert list(checks) == [name for name, _, _ in doctor.probes(tmp_path)]
    assert {check["status"] for check in checks.values()} <= {"ok", "absent", "broken"}
    for name in ("python", "torch", "opencv", "video encoder", "video decoders", "pose network", "output folder"):
        assert checks[name]["status"] == "ok", checks[name]
    assert "H.264" in checks["video decoders"]["detail"]
    assert status == (0 if report["ready"] else 1)
    assert report["ready"] == all(c["status"] == "ok" for c in checks.values() if c["required"])
    assert not (tmp_path / "results").exists()  # looking makes nothing


@pytest.mark.parametrize("backend", ["torch", "openvino"])
def test_doctor_tries_the_detector_as_a_run_takes_it(tmp_path, monkeypatch, backend):
    pytest.importorskip(backend, reason=f"{backend} is not installed: pip install 'sharpose-rt[cpu]'")
    from sharpose_rt.detection.openvino_network import GraphPerSize
    from sharpose_rt.engine import choice

    sizes = []
    run = GraphPerSize.__call__
    monkeypatch.setattr(GraphPerSize, "__call__", lambda *given: sizes.append(given[1].shape) or run(*given))
    monkeypatch.setattr(choice, "ways", lambda *_: (choice.Way(backend, torch.float32),))  # what `auto` finds fastest
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    status, detail, _ = doctor.check_detector()
    assert (status, len(sizes)) == ("ok", int(backend == "openvino"))
    assert f"ran on cpu by {backend}" in detail


def test_doctor_outlives_a_check_that_fails(monkeypatch, capsys):
    ill, missing = raising(RuntimeError("no\nway")), raising(ImportError("No module named 'x'"))
    probes = [("ill", ill, False), ("gone", missing, False), ("known", raising(SharposeError("do this")), False)]
    probes.append(("good", lambda: ("ok", "fine", ""), True))
    monkeypatch.setattr(doctor, "probes", lambda _: probes)
    assert call(doctor) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("broken  ill")
    assert lines[0].endswith("RuntimeError: no way")
    assert any(line.startswith("absent  gone") for line in lines)
    assert any(line.startswith("broken  known") and line.endswith("do this") for line in lines)
    monkeypatch.setattr(doctor, "probes", lambda _: [*probes, ("needed", ill, True)])
    assert call(doctor) == 1
    assert "(required)" in capsys.readouterr().out


def test_a_library_that_the_system_lacks_is_named_with_what_to_install(tmp_path):
    (tmp_path / "cv2.py").write_text(
        "raise ImportError('libGL.so.1: cannot open shared object file: No such file or directory')"
    )
    for arguments, status in ((["--source", "a.mp4"], 2), (["doctor"], 1)):
        program = (
            f"import sys; sys.path.insert(0, {str(tmp_path)!r}); "
            f"from sharpose_rt.cli import main; sys.exit(main({arguments}))"
        )
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
        said = done.stdout + done.stderr
        assert done.returncode == status
        assert "libGL.so.1 of the system is missing: `apt-get install libgl1 libglib2.0-0`, or opencv" in said
        assert "Traceback" not in said


def test_a_python_without_our_packages_is_named():
    root = Path(__file__).parents[2]
    program = f"import sys; sys.path.insert(0, {str(root)!r}); from sharpose_rt.cli import main; sys.exit(main())"
    bare = [sys.executable, "-I", "-S", "-c", program]  # as a checkout that was never installed
    done = subprocess.run([*bare, "--source", "a.mp4"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert done.stderr.startswith("sharpose-rt: error: the package ")
    assert f" is missing in {sys.executable}: run `pip install sharpose-rt` for that Python" in done.stderr
    assert done.stderr.count("\n") == 1


def test_doctor_ends_where_a_drive_is_not_there(monkeypatch):
    monkeypatch.setattr(doctor.os.path, "exists", lambda _: False)
    assert doctor.check_output(Path("/results"))[:2] == ("broken", "/results: there is no /")


def test_doctor_finds_damaged_weights(tmp_path, monkeypatch):
    from sharpose_rt.models import weights as weights_module
    from sharpose_rt.models.weights import file_sha256, save_weights

    monkeypatch.setattr(weights_module, "BUNDLED", tmp_path)
    assert doctor.check_weights()[0] == "absent"
    path = tmp_path / "tiny_256x192.safetensors"
    save_weights(golden_model(MINI, RELEASED), path)
    path.with_suffix(".json").write_text(json.dumps({"sha256": file_sha256(path)}))
    assert doctor.check_weights()[:2] == ("ok", f"tiny_256x192 sha256 {file_sha256(path)[:12]}")
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert doctor.check_weights()[0] == "broken"


def test_doctor_finds_an_output_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("x")
    assert doctor.check_output(tmp_path / "file" / "results")[0] == "broken"
    assert doctor.check_output(tmp_path / "a" / "b")[0] == "ok"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_doctor_tries_a_window_only_where_a_display_is(monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    assert doctor.check_window()[0] == "absent"
    monkeypatch.setenv("DISPLAY", ":987")  # nobody answers there; OpenCV ends its process, not ours
    assert doctor.check_window()[0] in ("broken", "absent")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="cameras are files there alone")
def test_doctor_tells_cameras_from_what_only_looks_like_one(tmp_path, monkeypatch):
    import fcntl

    def answer(fd, request, _):
        """A UVC camera's `struct v4l2_capability`; its second node has the metadata of the first."""
        assert request == 2 << 30 | 104 << 16 | ord("V") << 8  # VIDIOC_QUERYCAP: _IOR('V', 0, 104 bytes)
        node = Path(f"/proc/self/fd/{fd}").readlink().name
        own = {"video0": 0x04200001, "video1": 0x04A00000, "video2": 0x04201000}[node]
        return struct.pack("=16s32s32sIII12x", b"uvcvideo", b"Front: Camera", b"usb-1", 6 << 16, 0x84A01001, own)

    monkeypatch.setattr(doctor, "Path", lambda name: tmp_path if name == "/dev" else Path(name))
    assert doctor.check_cameras()[:2] == ("absent", "no /dev/video*")
    nodes = [tmp_path / f"video{n}" for n in range(3)]
    nodes[1].touch()
    assert doctor.check_cameras()[:2] == ("absent", f"{nodes[1]} capture no video")  # a file
    monkeypatch.setattr(fcntl, "ioctl", answer)
    assert doctor.check_cameras()[:2] == ("absent", f"{nodes[1]} capture no video")
    nodes[0].touch()
    nodes[2].touch()
    assert doctor.check_cameras()[:2] == ("ok", f"{nodes[0]} Front: Camera; {nodes[2]} Front: Camera")
    monkeypatch.setattr(doctor, "_v4l2_name", raising(PermissionError()))
    status, detail, advice = doctor.check_cameras()
    assert (status, detail) == ("broken", f"no permission for {', '.join(map(str, nodes))}")
    assert "group `video`" in advice


def packages(*names):
    return lambda: [SimpleNamespace(metadata={"Name": name}) for name in names]


@pytest.mark.parametrize(
    ("check", "of", "found", "status", "said"),
    [
        ("opencv", "metadata.distributions", packages("opencv-python", "OpenCV-contrib-python"), "broken",
         "opencv-contrib-python and opencv-python are both installed"),
        ("opencv", "metadata.distributions", packages("opencv-python", "numpy"), "ok", cv2.__version__),
        ("encoder", "_round_trip", lambda _: 9, "broken", "10 frames were encoded in H.264, 9 were decoded"),
        ("encoder", "_round_trip", raising(ValueError("no x264")), "broken", "H.264 cannot be written (no x264)"),
        ("decoders", "_decodes", lambda encoder: encoder != "libx264", "broken", "; no H.264"),
        ("decoders", "_decodes", lambda encoder: encoder == "libx264", "ok", "decoded H.264; no HEVC, VP9, AV1"),
        ("decoders", "_codec", lambda name, mode: name != "hevc" and mode == "r", "ok",
         "decoded nothing; present, not tried: H.264, VP9, AV1; no HEVC"),
        ("openvino", "importlib.import_module", raising(ImportError()), "absent", "optional: not installed"),
        ("window", "cv2.getBuildInformation", lambda: "  GUI:   NONE", "absent", "built without windows"),
        ("cuda", "_nvidia_driver", lambda: True, "broken", "there is an NVIDIA driver, but torch"),
        ("cuda", "_nvidia_driver", lambda: False, "absent", "the CPU is used"),
        ("ultralytics", "find_model", raising(DetectorError("no")), "ok", "yolo26n.pt is not here"),
    ],
)  # fmt: skip
def test_doctor_says_what_is_wrong_and_what_to_do(monkeypatch, check, of, found, status, said):
    """Of installations other than this one."""
    owner = {"cv2.getBuildInformation": "", "find_model": "sharpose_rt.detection.assets."}
    monkeypatch.setattr(f"{owner.get(of, 'sharpose_rt.commands.doctor.')}{of}", found)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    told, detail, advice = getattr(doctor, f"check_{check}")()
    assert (told, said in detail) == (status, True), detail
    assert advice or told == "ok" or (check, told) == ("cuda", "absent")


def test_doctor_says_which_packages_an_option_lacks_and_when_the_disk_is_nearly_full(tmp_path, monkeypatch):
    status, detail, advice = doctor.check_extra("parquet", "--to parquet", ("json", "no_such_package"))
    assert (status, detail) == ("absent", "optional: no_such_package not installed")
    assert advice == "pip install 'sharpose-rt[parquet]' for --to parquet"
    for free_gib, wanted in ((0.9, "free some"), (1.1, "")):
        monkeypatch.setattr("shutil.disk_usage", lambda _, free=free_gib: SimpleNamespace(free=int(free * 2**30)))
        status, detail, advice = doctor.check_output(tmp_path / "a" / "b")
        assert (status, f"{free_gib} GiB free" in detail, advice[:9]) == ("ok", True, wanted)


# demo


def test_the_demo_clip_moves_gently_over_the_photographs(tmp_path):
    path = make_demo_clip(tmp_path / "clip.mp4", 1.2)
    with av.open(str(path)) as container:
        frames = [(f.time, f.to_ndarray(format="gray").astype(int)) for f in container.decode(video=0)]
        assert container.streams.video[0].codec_context.name == "h264"
    assert len(frames) == 30
    assert np.allclose([t for t, _ in frames], np.arange(30) / 25, atol=1e-3)
    assert frames[0][1].shape == SIZE_WH[::-1]
    steps = [np.abs(b - a).mean() for (_, a), (_, b) in pairwise(frames)]
    cut = int(np.argmax(steps))
    assert cut == 14  # the second photograph begins half-way
    assert 0 < max(steps[:cut] + steps[cut + 1 :]) < steps[cut]


@pytest.mark.parametrize("shot", SHOTS, ids=lambda s: s.photograph)
def test_the_demo_camera_stays_inside_its_photograph(shot):
    image = read_photograph(shot.photograph)
    for x, y, width in (shot.first, shot.last):
        height = width * SIZE_WH[1] / SIZE_WH[0]
        assert width <= SIZE_WH[0]  # never shrunk, which would alias
        assert x - width / 2 >= 0
        assert x + width / 2 <= image.shape[1]
        assert y - height / 2 >= 0
        assert y + height / 2 <= image.shape[0]


def test_demo_tracks_its_clip_and_downloads_nothing(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(track, "run", lambda args: seen.append(args) or 0)
    assert call(demo, "--output", tmp_path / "o", "--seconds", 0.4, "--weights", "random", "--quiet") == 0
    (args,) = seen
    assert Path(args.source[0]).is_file()
    assert track.build_config(args).offline
    assert call(demo, "--output", tmp_path / "o", "--seconds", 0.4, "--detector", "yolo26n.pt", "--quiet") == 0
    assert not track.build_config(seen[1]).offline
    with pytest.raises(SystemExit):
        call(demo, "--seconds", "abc")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--source", "walk.mp4", "--camera-fps", "30"], "--camera-fps is for a camera, which walk.mp4 is not"),
        (["--source", "walk.mp4", "--reconnect", "5"], "--reconnect is for cameras and streams; walk.mp4 is a file"),
        (["--source", "walk.mp4", "--source", "webcam", "--camera-size", "640x480", "--reconnect", "5"], ""),
    ],
)
def test_options_that_no_source_looks_at_are_told(options, said, caplog):
    parser = argparse.ArgumentParser()
    track.add_arguments(parser)
    args = parser.parse_args(options)
    track._check_used(args, args.source)
    assert caplog.text.strip().endswith(said)
    assert bool(said) == bool(caplog.text)


def test_results_of_a_list_stay_in_the_folder_for_them(tmp_path, monkeypatch):
    (tmp_path / "a" / "deep").mkdir(parents=True)
    (tmp_path / "b").mkdir()
    for name in ("a/x.mp4", "b/y.mp4"):
        (tmp_path / name).write_bytes(b"a video")
    monkeypatch.chdir(tmp_path / "a" / "deep")
    (tmp_path / "list.txt").write_text("../x.mp4\n../../b/y.mp4\n")
    seen = []
    monkeypatch.setattr(track, "_run_each", lambda args, config, specs: seen.extend(specs) or 0)
    assert call(track, "--source", f"@{tmp_path / 'list.txt'}") == 0
    assert seen == [("../x.mp4", Path("a")), ("../../b/y.mp4", Path("b"))]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such names")
def test_names_of_files_do_not_steer_the_terminal(tmp_path, monkeypatch, capsys):
    for name in ("a\x1b[2J.mp4", "b\n.mp4"):
        (tmp_path / name).write_bytes(b"no video")
    assert call(track, "--source", tmp_path, "--weights", "random", "--boxes", "full", "--output", tmp_path / "o") == 2
    said = capsys.readouterr().out
    assert "\x1b" not in said
    assert r"a\x1b[2J.mp4" in said


def test_messages_do_not_steer_the_terminal_and_quiet_keeps_warnings(tmp_path, monkeypatch, capsys):
    name, shown = "a\x1b[2J\u202e.mp4", r"a\x1b[2J\u202e.mp4"
    with monkeypatch.context() as patch:  # as in a process of its own, which has no handlers yet
        patch.setattr(logging.root, "handlers", [])
        patch.setattr(logging.root, "level", logging.WARNING)
        assert main(["--source", str(tmp_path / name), "--camera-fps", "30", "--quiet"]) == 2
        logging.getLogger("sharpose_rt").info("all is well")
        logging.getLogger("sharpose_rt").warning("two\nlines\r")
    asked, missing, *two = capsys.readouterr().err.splitlines()
    assert asked.startswith("sharpose_rt: --camera-fps is for a camera, ")
    assert missing.startswith("sharpose-rt: error: ")
    assert shown in asked
    assert shown in missing
    assert two == ["sharpose_rt: two", r"lines\r"]
    assert main([name]) == 2
    assert f"`sharpose-rt --source {shown}`" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["--source", "x", name])
    assert f"unrecognized arguments: {shown}" in capsys.readouterr().err


def test_demo_replaces_no_video_unasked(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(track, "run", lambda args: seen.append(Path(args.source[0]).name) or 0)
    (tmp_path / "demo_clip.mp4").write_bytes(b"somebody's own")
    options = ("--output", tmp_path, "--seconds", 0.2, "--quiet")
    assert call(demo, *options) == call(demo, *options) == 0
    assert (tmp_path / "demo_clip.mp4").read_bytes() == b"somebody's own"
    assert call(demo, *options, "--overwrite") == 0
    assert seen == ["demo_clip-2.mp4", "demo_clip-3.mp4", "demo_clip.mp4"]
    assert (tmp_path / "demo_clip.mp4").stat().st_size > 1000


def test_demo_refuses_bad_options_before_any_work(tmp_path):
    with pytest.raises(ConfigError):
        call(demo, "--output", tmp_path / "o", "--set", "pose.nonsense=1")
    assert not (tmp_path / "o").exists()


def test_trained_weights_are_made_ready_to_ship(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from sharpose_rt.models import create_model
    from sharpose_rt.models.weights import load_model, save_weights

    torch.manual_seed(1)
    model = create_model("tiny_256x192")
    trained, shipped, metrics = (tmp_path / name for name in ("run.safetensors", "out.safetensors", "eval.json"))
    save_weights(model, trained)
    metrics.write_text('{"command": "sharpose-rt eval ...", "AP": 0.5}')
    command = ["weights", "export", str(trained), str(shipped), "--model", "tiny_256x192", "--quality-threshold", "0.7"]
    (tmp_path / "list.json").write_text("[]")
    assert main([*command, "--metrics", str(tmp_path / "list.json")]) == 2
    assert "list.json is not a JSON object" in capsys.readouterr().err
    (tmp_path / "out.json").write_text("of another program")
    assert main([*command, "--metrics", str(metrics)]) == 2
    assert "out.json exists" in capsys.readouterr().err
    (tmp_path / "out.json").unlink()
    assert main([*command, "--metrics", str(metrics)]) == 0
    assert shipped.stat().st_size < 0.51 * trained.stat().st_size

    loaded, info = load_model("tiny_256x192", str(shipped))
    assert info.quality_threshold == 0.7
    for ours, theirs in zip(loaded.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-3, rtol=1e-3)
    card = json.loads(shipped.with_suffix(".json").read_text())
    assert card["sha256"] == info.sha256
    assert card["metrics"] == [{"command": "sharpose-rt eval ...", "values": {"AP": 0.5}}]

    assert main(command) == 2
    assert "--overwrite" in capsys.readouterr().err


def test_trained_weights_are_averaged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from sharpose_rt.models import create_model
    from sharpose_rt.models.weights import PADDING, RANGES, file_sha256, load_model, read_metadata, save_weights

    paths = [tmp_path / f"{number}.safetensors" for number in range(3)]
    models = []
    for seed, path in enumerate(paths):
        torch.manual_seed(seed)
        models.append(create_model("mini", "released" if seed == 2 else "paper"))
        save_weights(models[-1], path, metadata={RANGES: "{}", PADDING: "1.1"})
    target = tmp_path / "mean.safetensors"
    command = ["weights", "export", str(paths[0]), str(target), "--model", "mini", "--quality-threshold", "0.7"]
    assert main([*command, "--average", str(paths[1])]) == 0
    mean, info = load_model("mini", str(target))
    for value, a, b in zip(mean.parameters(), models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(value, (a + b) / 2, atol=2e-3, rtol=1e-3)
    assert RANGES not in read_metadata(target)  # they were those of one of the two
    assert mean.box_padding == 1.1
    card = json.loads(target.with_suffix(".json").read_text())
    assert card["trained_from"] == ", ".join(file_sha256(path) for path in paths[:2])

    assert main([*command, "--overwrite", "--average", str(paths[2])]) == 2
    assert "same behaviour" in capsys.readouterr().err
    other = create_model("mini", attention_scale=1.0)
    save_weights(other, paths[2], metadata={PADDING: "1.1"})
    assert main([*command, "--overwrite", "--average", str(paths[2])]) == 2
    assert "attention scale 1 and" in capsys.readouterr().err
    save_weights(models[1], paths[1])  # of crops as they usually are
    assert main([*command, "--overwrite", "--average", str(paths[1])]) == 2
    assert "has box_padding 1.25 and" in capsys.readouterr().err
    assert file_sha256(target) == info.sha256
