"""Measurements as Markdown: every figure comes from a JSON file written by `bench`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from sharpose_rt.bench.record import read_record, write_text
from sharpose_rt.errors import StreamError

# Published ratios of the frame rates of SHaRPose to those of ViTPose (An et al., AAAI 2024, Table 3), on one RTX 3090.
PAPER_RATIOS = {"small_256x192": 498.3 / 360.3, "base_256x192": 392.8 / 340.2, "base_384x288": 196.6 / 143.3}

_INTRO = """# Benchmarks

Written by `sharpose-rt bench report` from measurements of `sharpose-rt bench`; no figure was typed in.
Other work on the machine (see its load) makes all figures worse; ratios suffer least.
"""

_MODEL_NOTE = """Crops per second and latency of a batch for the network alone, including normalisation but not cropping
or keypoint decoding. *dense* is ViTPose with its classic decoder, with the same width, depth and heads, in the same
precision and backend; all contenders of a batch size took turns in every round. *exit* is the share of crops that left
after the coarse stage (0 %: both stages for all; 100 %: only the coarse stage). *against dense* is the ratio of crops
per second within a round: median over the rounds, and range from the 10th to the 90th percentile. *GEMM* is the rate as
a share of the machine's own rate for a large matrix product in torch in that precision (for int8 in float32)."""

_PIPELINE_NOTE = """Whole runs, without the warm-up. *fps* counts frames that were output before the source ended (in
very short runs, all). *latency* is from capture to written output; for a file this includes waiting in queues that are
full by design, for a paced or live source it is what a viewer would see. *people* "as found" is the clip as it is; a
number is that many boxes in every frame (*copies*: share of boxes that repeat a person with a small shift). *growth* is
resident memory at the end minus that after the warm-up."""


_PEERS_NOTE = """Each package got the same frames, decoded beforehand, and the same boxes of people. Times are for the
poses of a frame; finding people is only included for networks that look at the whole frame. *people* is the number of
poses. Each package ran alone, in its own process and environment, with its default number of threads."""
_PEERS_TURNS = """All took turns in each of {} rounds: *fps* is the median over rounds, *against ours* the ratio within
a round: median, lowest and highest."""


_CAMERAS_NOTE = """The same videos together in one run, with their people in the same batches, and one after another in
a run each; both ways took turns. *fps* counts the frames of all videos, lowest and highest over the rounds, without
loading and the first frames; the ratio is within a round: median, lowest and highest."""


def write_report(files: Sequence[Path], out: Path) -> None:
    """Writes `out` from measurements, in the order given.

    Raises:
        StreamError: a file is not a measurement.
        OutputError: `out` cannot be written.
    """
    records = [read_record(path) for path in files]
    for path, record in zip(files, records, strict=True):
        try:
            render([record], out.parent)
        except StreamError as error:
            raise StreamError(f"{path}: {error}") from error
        except (AttributeError, LookupError, TypeError, ValueError) as error:  # edited, or of another version
            raise StreamError(
                f"{path} is not a complete measurement of this version ({type(error).__name__}: {error}); measure again"
            ) from error
    write_text(out, render(records, out.parent))


def render(records: Sequence[dict[str, Any]], folder: Path = Path()) -> str:
    """The report; pictures are linked relative to `folder`."""
    parts = [_INTRO]
    machines: list[dict[str, Any]] = []
    for record in records:
        if record["kind"] not in _SECTIONS:
            raise StreamError(f"a record of the kind {record['kind']!r}; one of {', '.join(_SECTIONS)} is accepted")
        here = {key: value for key, value in record["machine"].items() if not key.startswith("load")}
        if here not in machines:
            machines.append(here)
    names = [f"Machine {number}" for number in range(1, len(machines) + 1)] if len(machines) > 1 else ["Machine"]
    for name, here in zip(names, machines, strict=True):
        parts.append(f"## {name}\n\n" + _machine(here))
    for record in records:
        here = {key: value for key, value in record["machine"].items() if not key.startswith("load")}
        parts.append(_SECTIONS[record["kind"]](record, folder) + "\n\n" + _origin(record, names[machines.index(here)]))
    return "\n".join(part.rstrip() + "\n" for part in parts)


def _machine(here: dict[str, Any]) -> str:
    gpu = here["gpu"] or "none"
    return (
        f"- processor: {here['cpu']} ({here['cpu_capability']}), {here['cores']} cores, "
        f"{here['threads_torch']} threads in torch\n"
        f"- memory: {here['ram_gb']:g} GiB\n- GPU: {gpu}\n- system: {here['os']}"
    )


def _origin(record: dict[str, Any], machine: str) -> str:
    versions = ", ".join(
        f"{name} {value}" for name, value in record["versions"].items() if value and name != "platform"
    )
    before, after = (_number(record["machine"][key], 1) for key in ("load_before", "load_after"))
    cut = ", interrupted" if record["settings"].get("interrupted") else ""
    where = f"{machine}, {record['date']}{cut}, load {before} before and {after} after. Versions: {versions}."
    return f"{where}\n\n```\n{record['command']}\n```"


def _model(record: dict[str, Any], folder: Path) -> str:
    settings = record["settings"]
    text = f"## Networks on {settings['device']}, {settings['precision']}, {settings['backend']}\n\n{_MODEL_NOTE}\n"
    for model in dict.fromkeys(row["model"] for row in record["results"]):
        rows = [row for row in record["results"] if row["model"] == model]
        rates = [row["gemm_gflops"] for row in rows]
        text += f"\n### {model}\n\nMachine's own GEMM rate meanwhile: {_range(rates)} GFLOP/s."
        if model in PAPER_RATIOS:
            text += f" The paper states {PAPER_RATIOS[model]:.2f} times ViTPose's frame rate (RTX 3090, Q_thres 0.95)."
        text += "\n\n" + _table(MODEL_HEADINGS, map(model_cells, rows))
    return text


MODEL_HEADINGS = (
    *("backend", "batch", "network", "exit", "crops/s", "batch p50 ms", "p95 ms"),
    *("GMACs/crop", "GEMM", "against dense"),
)


def model_cells(row: dict[str, Any]) -> list[str]:
    """One cell for each of `MODEL_HEADINGS`."""
    dense = row["method"] == "dense"
    ratio = row["ratio"]
    return [
        row.get("backend", "torch"),
        str(row["batch"]),
        row["method"],
        "" if dense else f"{100 * row['exit_rate']:.0f} %",
        _number(row["crops_per_s"], 1),
        _number(row["latency_ms"]["p50"], 2),
        _number(row["latency_ms"]["p95"], 2),
        _number(row["gmacs"], 2),
        f"{row['gemm_percent']:.0f} %",
        "" if dense else f"{ratio['median']:.2f} ({ratio['p10']:.2f}-{ratio['p90']:.2f})",
    ]


def _pipeline(record: dict[str, Any], folder: Path) -> str:
    settings, rows = record["settings"], record["results"]
    width, height = settings["size_wh"]
    pose = settings["config"]["pose"]
    video = "with" if settings["video"] else "without"
    every = pose.get("refine_every")
    refined = f" with --refine-every {every}" if every else ""
    text = (
        f"## {settings['source']}, {width}x{height}, {settings['mode']}, {video} annotated video\n\n"
        f"{_PIPELINE_NOTE}\n\n"
        f"{pose['model']} ({_ran(rows[0])}){refined}, detector {Path(rows[0]['detector']).name}, "
        f"clip of {_number(settings['fps'], 2)} fps.\n\n"
    )
    text += _table(PIPELINE_HEADINGS, (pipeline_cells(row) for row in rows))
    slipped = max((row["slipped_s"] or 0.0 for row in rows), default=0.0)
    if slipped:
        text += (
            f"\nDecoding could not keep up with the clip's own rate: its clock waited up to {slipped:.2f} s in a run.\n"
        )
    text += "\nEach part alone, ms per frame (mean), while nothing else ran:\n\n"
    names = [part["name"] for part in rows[0]["alone"]]
    text += _table(("people", *names, "sum"), (alone_cells(row) for row in rows))
    text += "\nEach stage in the run, ms per frame (p50 / p95), while the other stages ran, including the warm-up:\n\n"
    names = [stage["name"] for stage in rows[0]["stages"]]
    text += _table(("people", *names), (stage_cells(row) for row in rows))
    if settings.get("plot"):
        text += f"\n![latency and parts against people]({Path(os.path.relpath(settings['plot'], folder)).as_posix()})\n"
    return text


def _peers(record: dict[str, Any], folder: Path) -> str:
    settings, rows = record["settings"], record["results"]
    width, height = settings["size_wh"]
    boxes = f"{settings['boxes_mean']:.1f} boxes per frame by {Path(settings['detector']).name}"
    ours = settings.get("ours", "backend and precision not recorded")
    turns = f"\n{_PEERS_TURNS.format(settings['rounds'])}" if "rounds" in settings else ""
    text = (
        f"## Peers over {settings['source']}, {width}x{height}\n\n{_PEERS_NOTE}{turns}\n\n"
        f"{settings['frames']} frames, {boxes}; ours is {settings['model']} ({ours}).\n\n"
    )
    text += _table(PEER_HEADINGS, map(peer_cells, rows)) + "\n"
    return text + "".join(f"- {row['peer']}: {row['error'] or row['what']}\n" for row in rows)


PEER_HEADINGS = ("peer", "fps", "frame p50 ms", "p95 ms", "people", "against ours", "could not be run")


def peer_cells(row: dict[str, Any]) -> list[str]:
    """One cell for each of `PEER_HEADINGS`."""
    latency = row["latency_ms"] or {}
    times = (_number(latency.get(name), 1) for name in ("p50", "p95"))
    ratio = row.get("ratio")
    against = "" if ratio is None else _spread(ratio)
    return [row["peer"], _number(row["fps"], 1), *times, _number(row["people_mean"], 1), against, row["error"] or ""]


def _ran(facts: dict[str, Any]) -> str:
    """Backend, precision and device of the pose network."""
    backend = facts.get("backend", "backend not recorded")
    return f"{backend}, {facts['precision'].removeprefix('torch.')}, {facts['device']}"


def _cameras(record: dict[str, Any], folder: Path) -> str:
    settings = record["settings"]
    pose, video = settings["config"]["pose"], "with" if settings["video"] else "without"
    head = f"## {len(settings['sources'])} sources, {video} annotated video\n\n{_CAMERAS_NOTE}\n\n"
    ran = _ran(settings["ran"]) if "ran" in settings else "backend and precision not recorded"
    detector = settings["config"]["detector"]["name"]
    what = f"{', '.join(settings['sources'])}; {pose['model']} ({ran}), detector {detector}.\n\n"
    return head + what + _table(CAMERAS_HEADINGS, map(cameras_cells, record["results"]))


CAMERAS_HEADINGS = ("way", "rounds", "frames", "fps", "against one after another")


def cameras_cells(row: dict[str, Any]) -> list[str]:
    """One cell for each of `CAMERAS_HEADINGS`."""
    against = _spread(row["ratio"])
    fps = f"{min(row['fps']):.1f} to {max(row['fps']):.1f}"
    return [row["way"], str(len(row["fps"])), str(row["frames"][0]), fps, against]


PIPELINE_HEADINGS = (
    *("people", "mean", "copies", "frames", "fps", "latency p50 ms", "p95", "p99"),
    *("dropped", "exit", "RSS peak MB", "growth MB", "GPU MB", "bottleneck"),
)


def pipeline_cells(row: dict[str, Any]) -> list[str]:
    """One cell for each of `PIPELINE_HEADINGS`."""
    latency = row["latency_ms"] or {}
    return [
        _asked(row),
        _number(row["people_mean"], 1),
        _share(row["copies"]),
        str(row["frames"]),
        _number(row["fps"], 1),
        *(_number(latency.get(name), 1) for name in ("p50", "p95", "p99")),
        str(sum(row["dropped"].values())),
        _share(row["exit_rate"]),
        _number(row["rss_peak_mb"], 0),
        _number(row["rss_growth_mb"], 1),
        _number(row["gpu_memory_mb"], 0),
        str(row["bottleneck"]),
    ]


def alone_cells(row: dict[str, Any]) -> list[str]:
    """People, the mean of each part in ms, and their sum."""
    return [_asked(row), *(_number(part["mean_ms"], 2) for part in row["alone"]), _number(row["alone_ms"], 1)]


def stage_cells(row: dict[str, Any]) -> list[str]:
    """People, and 'p50 / p95' of each stage in ms."""
    return [_asked(row), *(f"{stage['p50_ms']:.2f} / {stage['p95_ms']:.2f}" for stage in row["stages"])]


def _asked(row: dict[str, Any]) -> str:
    return "as found" if row["people"] is None else str(row["people"])


def _share(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.0f} %"


def _spread(ratio: dict[str, float]) -> str:
    return f"{ratio['median']:.2f} ({ratio['least']:.2f}-{ratio['most']:.2f})"


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _range(values: Sequence[float]) -> str:
    low, high = f"{min(values):.0f}", f"{max(values):.0f}"
    return low if low == high else f"{low} to {high}"


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [headings, ["---:"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines) + "\n"


_SECTIONS: dict[str, Callable[[dict[str, Any], Path], str]] = {
    "model": _model,
    "pipeline": _pipeline,
    "cameras": _cameras,
    "peers": _peers,
}
"""How each kind of record is written."""
