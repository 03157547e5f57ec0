"""The plot of `bench pipeline`: latency and time per frame by number of people."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sharpose_rt.bench.alone import PARTS
from sharpose_rt.errors import writing
from sharpose_rt.machine.whole_files import whole


def plot_pipeline(record: dict[str, Any], path: Path) -> None:
    """Draws a pipeline record: capture-to-output latency on the left, the parts of a frame on the right.

    Raises:
        OutputError: the file cannot be written.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    settings, rows = record["settings"], sorted(record["results"], key=lambda row: row["people_mean"])
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    latency, parts = figure.subplots(1, 2)

    timed = [row for row in rows if row["latency_ms"] is not None]
    people = [row["people_mean"] for row in timed]
    for name, style in (("p50", "-o"), ("p95", "--o"), ("p99", ":o")):
        latency.plot(people, [row["latency_ms"][name] for row in timed], style, label=f"capture to output, {name}")
    latency.plot(
        people, [1e3 / row["fps"] if row["fps"] else None for row in timed], "-s", label="time per frame, 1000 / fps"
    )
    latency.set(xlabel="people in a frame (mean)", ylabel="ms", ylim=(0, None), title=_how(settings))
    latency.grid(alpha=0.3)
    latency.legend()

    labels = ["as found" if row["people"] is None else str(row["people"]) for row in rows]
    bottom = [0.0] * len(rows)
    colours = colormaps["tab20"]
    for index, part in enumerate(PARTS):
        heights = [next(p["mean_ms"] for p in row["alone"] if p["name"] == part) for row in rows]
        parts.bar(labels, heights, bottom=bottom, label=part, color=colours(index))
        bottom = [low + height for low, height in zip(bottom, heights, strict=True)]
    parts.set(xlabel="people in each frame", ylabel="ms (mean)", title="parts of a frame, one after another")
    handles, names = parts.get_legend_handles_labels()
    parts.legend(handles[::-1], names[::-1], loc="upper left", fontsize="small")
    machine = record["machine"]
    figure.suptitle(
        f"{settings['source']} on {machine['gpu'] or machine['cpu']}, {machine['cores']} cores", fontsize="medium"
    )
    with writing(path, "give another path that ends in .png", ValueError), whole(path) as part:
        figure.savefig(part, format=path.suffix[1:] or "png", dpi=120)


def _how(settings: dict[str, Any]) -> str:
    width, height = settings["size_wh"]
    fps = f" at {settings['fps']:g} fps" if settings["fps"] and settings["mode"] != "file" else ""
    video = "with" if settings["video"] else "without"
    return f"{settings['mode']}, {width}x{height}{fps}, {video} annotated video"
