"""Hours of video in flat memory, and no picture that waits for the collector of garbage."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path

import psutil
import pytest
from media_clips import write_clip
from people_set import SMALL

from sharpose_rt.app import FileRun
from sharpose_rt.config import load
from sharpose_rt.types import Packet

# The allocators' pools fill in steps until about frame 1,000 and then stay; a leak would go on.
FRAMES, WARM_UP, MOST_GROWTH_MB = 5000, 1000, 50


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_memory_stays_flat(tmp_path: Path) -> None:
    clip = tmp_path / "long.mp4"
    write_clip(clip, FRAMES, size_wh=(320, 240), fps=25, gop=50)
    process, seen = psutil.Process(), {}

    def look(packet: Packet) -> None:
        if packet.frame.frame_id in (WARM_UP, FRAMES - 1):
            seen[packet.frame.frame_id] = process.memory_info().rss / 2**20

    options = ["pose.weights=random", "pose.quality_threshold=-inf", "detector.name=full", "output.preset=ultrafast"]
    results = FileRun(str(clip), load(None, [*options, f"output.directory={tmp_path / 'out'}"])).run(look)
    assert results.figures["frames"] == FRAMES
    growth_mb = seen[FRAMES - 1] - seen[WARM_UP]
    print(f"RSS {seen[WARM_UP]:.0f} MB at frame {WARM_UP}, grown by {growth_mb:.1f} MB at frame {FRAMES}")
    assert growth_mb < MOST_GROWTH_MB


def test_pictures_go_with_their_last_user(tmp_path: Path) -> None:
    """Garbage in circles is looked for now and then, and holds none of them."""
    clip = tmp_path / "walk.mp4"
    write_clip(clip, 12, size_wh=(320, 240))
    pictures: list[weakref.ref] = []
    options = [f"pose.model={SMALL.name}", "pose.weights=random", "detector.name=full", "output.preset=ultrafast"]
    run = FileRun(str(clip), load(None, [*options, f"output.directory={tmp_path / 'out'}"]))
    gc.collect()
    gc.disable()
    try:
        run.run(lambda packet: pictures.append(weakref.ref(packet.frame.image_bgr)))
        assert len(pictures) == 12
        left = [number for number, picture in enumerate(pictures) if picture() is not None]
    finally:
        gc.enable()
    assert left in ([], [11])  # a source may keep its last frame
