"""Figures of the runs in the text format of Prometheus (exposition format 0.0.4)."""

from __future__ import annotations

import math
from collections.abc import Iterator

import psutil

from sharpose_rt.live.hub import Hub, LiveRun

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


def render(hub: Hub) -> str:
    """All figures, grouped by name as the format requires."""
    families: dict[str, tuple[str, str, list[str]]] = {}
    for run in hub.runs:
        for name, kind, text, labels, value in _figures(run):
            marks = ",".join(f'{key}="{label.translate(_ESCAPES)}"' for key, label in labels.items())
            base = name.removesuffix("_sum").removesuffix("_count") if kind == "summary" else name
            families.setdefault(base, (kind, text, []))[2].append(f"{name}{{{marks}}} {value:.10g}")
    families["sharpose_viewers"] = (
        "gauge",
        "Pages and programs that receive the skeletons.",
        [f"sharpose_viewers {hub.viewers}"],
    )
    rss = psutil.Process().memory_info().rss
    families["process_resident_memory_bytes"] = ("gauge", "Memory in use.", [f"process_resident_memory_bytes {rss}"])
    for figures in (publisher() for publisher in hub.publishers):
        to = figures["to"].translate(_ESCAPES)
        for key, text in (("sent", "Records sent."), ("dropped", "Records dropped for a consumer.")):
            name = f"sharpose_published_{key}_total"
            families.setdefault(name, ("counter", text, []))[2].append(f'{name}{{to="{to}"}} {figures[key]}')
    lines = []
    for name, (kind, text, samples) in families.items():
        lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}", *samples]
    return "\n".join(lines) + "\n"


def _figures(run: LiveRun) -> Iterator[tuple[str, str, str, dict[str, str], float]]:
    """Name, type, help, labels and value of each sample of a run."""
    t, at = run.totals, {"source": run.name}
    yield (
        "sharpose_up",
        "gauge",
        "1 while frames arrive, 0 when the source is not available yet, lost, stalled or ended.",
        at,
        float(run.state == "running"),
    )
    yield "sharpose_frames_total", "counter", "Frames written.", at, t.frames
    yield "sharpose_frames_dropped_total", "counter", "Frames dropped to stay current.", at, t.dropped
    yield "sharpose_frames_damaged_total", "counter", "Frames skipped because they cannot be decoded.", at, run.damaged
    yield "sharpose_losses_total", "counter", "Times that the source was lost and came back.", at, t.losses
    yield "sharpose_fps", "gauge", "Frames per second over the last 50; 0 unless frames arrive.", at, run.fps
    yield "sharpose_people", "gauge", "People in the last frame; 0 unless frames arrive.", at, run.people
    yield "sharpose_tracks_total", "counter", "Identities so far.", at, len(t.ids)
    for stage in ("coarse", "fine", "predicted"):
        labels = {**at, "stage": stage}
        yield "sharpose_poses_total", "counter", "Poses by the stage they came from.", labels, getattr(t, stage)
    name, text = "sharpose_latency_seconds", "From capture to output; quantiles of the last two minutes."
    late = run.latency
    for q in (50, 95, 99):
        value_s = late.percentile(q) if late.count else math.nan
        yield name, "summary", text, {**at, "quantile": f"{q / 100:g}"}, value_s
    yield f"{name}_sum", "summary", text, at, t.latency.mean * t.latency.count
    yield f"{name}_count", "summary", text, at, t.latency.count
