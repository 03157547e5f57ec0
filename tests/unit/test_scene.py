"""Cuts are found, camera motion and flicker are none, and nobody keeps an id across one."""

from __future__ import annotations

from dataclasses import replace

import av
import cv2
import numpy as np
import pytest

from sharpose_rt.config import SmoothConfig, TrackerConfig
from sharpose_rt.skeleton import COCO17
from sharpose_rt.stages import DetectStage, SmoothStage, TrackStage, count_dropped
from sharpose_rt.tracking import KeypointSmoother, SceneCuts, create_tracker
from sharpose_rt.types import Detections, Frame, Packet, Poses

THRESHOLD = TrackerConfig().scene_cut


def texture(seed, size_hw=(240, 320)):
    """A coloured picture, smooth like a photograph."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (6, 8, 3)).astype(np.uint8)
    return cv2.resize(coarse, size_hw[::-1], interpolation=cv2.INTER_LINEAR)


def test_a_cut_is_found_once():
    cuts = SceneCuts(THRESHOLD)
    frames = [texture(1)] * 5 + [texture(2)] * 5 + [texture(3)]
    assert [cuts.is_cut(frame) for frame in frames] == [False] * 5 + [True] + [False] * 4 + [True]


def test_pans_flicker_and_grey_noise_are_no_cuts():
    rng = np.random.default_rng(0)
    pan = [np.roll(texture(1), 6 * i, 1) for i in range(20)]
    flicker = [(texture(1) * (0.8 + 0.2 * (i % 2))).astype(np.uint8) for i in range(20)]
    dark = [rng.integers(0, 12, (240, 320, 3)).astype(np.uint8) for _ in range(20)]  # its hue jumps all the time
    overlay = [texture(1) for _ in range(20)]
    for frame in overlay[9:]:
        frame[:150] = 255 - frame[:150]
    for frames in (pan, flicker, dark, overlay):
        cuts = SceneCuts(THRESHOLD)
        assert not any(cuts.is_cut(frame) for frame in frames)


def test_a_fast_pan_and_a_strong_flicker_are_one_cut_at_most():
    still = [texture(1)] * 15
    pan = [np.roll(texture(1), 40 * i, 1) for i in range(20)]
    flicker = [(texture(1) * (0.5 + 0.5 * (i % 2))).astype(np.uint8) for i in range(20)]
    for frames in (pan, flicker, still + pan, still + flicker):
        cuts = SceneCuts(THRESHOLD)
        assert sum(cuts.is_cut(frame) for frame in frames) <= 1


@pytest.mark.parametrize("times", [2, 3, 4])
def test_a_film_stored_at_more_frames_a_second_has_the_same_cuts(times):
    pan = [np.roll(texture(1), 40 * i, 1) for i in range(20)]
    flicker = [(texture(1) * (0.5 + 0.5 * (i % 2))).astype(np.uint8) for i in range(20)]
    cut = [np.roll(texture(1 + i // 6), i, 1) for i in range(18)]
    for frames in (pan, flicker, cut):
        once, more = SceneCuts(THRESHOLD), SceneCuts(THRESHOLD)
        found = [n for n, frame in enumerate(frames) if once.is_cut(frame)]
        assert [n for n in range(times * len(frames)) if more.is_cut(frames[n // times])] == [times * n for n in found]


def test_a_threshold_of_zero_finds_none():
    cuts = SceneCuts(0.0)
    assert not any(cuts.is_cut(texture(i)) for i in range(4))


@pytest.mark.shared
def test_real_clips_have_no_cut_and_joined_ones_have(shared_dir):
    cuts, found, names = SceneCuts(THRESHOLD), [], ("openpose_video.avi", "sports2d_demo_old.mp4", "sam2_juggle.mp4")
    for name in names:  # a moving camera among them
        with av.open(str(shared_dir / "video" / name)) as container:
            for index, frame in enumerate(container.decode(video=0)):
                if index == 40:
                    break
                if cuts.is_cut(frame.to_ndarray(format="bgr24")):
                    found.append((name, index))
    assert found == [(names[1], 0), (names[2], 0)]


class OneBox:
    """A detector that always finds the same box, and counts its calls."""

    name, closest = "one", 0

    def __init__(self) -> None:
        self.frames: list[int] = []

    def detect(self, frame, *, look=0):
        self.frames.append(frame.frame_id)
        return Detections(np.array([[60, 40, 120, 200]], np.float32), np.array([0.9], np.float32))


@pytest.mark.parametrize("tracker", ["sharpose", "bytetrack"])
def test_ids_end_at_a_cut_and_the_detector_looks_again(tracker):
    config = TrackerConfig(tracker)
    detector = OneBox()
    detect = DetectStage(detector, 100, SceneCuts(config.scene_cut))
    track = TrackStage(create_tracker(config, COCO17))
    ids = []
    for index in range(12):
        frame = Frame(index, index / 25, texture(1 if index < 6 else 2))
        (packet,) = detect.process(frame)
        (packet,) = track.process(packet)
        assert packet.tracks is not None
        ids.append(packet.tracks.track_ids.tolist())
    assert detector.frames == [0, 6]
    assert ids[5] == [1]
    assert ids[6] == [2]


def test_frames_that_were_dropped_count_for_how_often_the_detector_looks():
    """Of every tenth frame of a camera; those between were dropped while it waited."""
    detector = OneBox()
    detect = DetectStage(detector, 30)
    for number in range(0, 100, 10):
        tuple(detect.process(Frame(number, number / 30, texture(1), dropped_before=9 if number else 0)))
    assert detector.frames == [0, 30, 60, 90]


@pytest.mark.parametrize(("step_s", "source", "scenes"), [(1.0, "{}.jpg", 5), (0.04, "{}.jpg", 1), (1.0, "", 1)])
def test_photographs_of_a_folder_have_nothing_to_do_with_each_other(step_s, source, scenes):
    """Five of one size; as frames of a video, however far apart, they would be a pan."""
    detect = DetectStage(OneBox(), 1, SceneCuts(THRESHOLD))
    frames = [Frame(n, n * step_s, texture(n), source=source.format(n)) for n in range(6)]
    begun = [packet.new_scene for frame in frames for packet in detect.process(frame)]
    assert begun == [False] + [True] * scenes + [False] * (5 - scenes)


def test_a_detector_is_made_ready_for_the_size_that_comes():
    sizes = []

    class Sized(OneBox):
        def open(self):
            sizes.append("open")

        def detect(self, frame, *, look=0):
            sizes.append(frame.size_wh)
            return super().detect(frame)

    DetectStage(Sized()).open()
    detect = DetectStage(Sized(), ready_for=lambda: (64, 48))
    detect.open()
    assert sizes == ["open", "open", (64, 48)]
    assert detect.detected_frames == 0
    (packet,) = detect.process(Frame(0, 0.0, texture(1)))
    assert not packet.new_scene


def test_more_people_than_are_kept_are_told_of_once(caplog):
    for most, told in ((2, 0), (None, 0), (1, 1)):
        caplog.clear()
        detect = DetectStage(OneBox(), most=most)
        for index in range(3):
            list(detect.process(Frame(index, index / 25, texture(1))))
        assert len(caplog.messages) == told
    assert "frame 0: 1 people are found" in caplog.text
    assert "--set detector.max_people=N" in caplog.text


def test_a_cut_survives_a_dropped_frame():
    detect = DetectStage(OneBox(), 1, SceneCuts(THRESHOLD))
    first, cut, after = (
        next(iter(detect.process(Frame(i, i / 25, texture(seed))))) for i, seed in enumerate((1, 2, 2))
    )
    assert (first.new_scene, cut.new_scene, after.new_scene) == (False, True, False)
    assert count_dropped(cut, after).new_scene


def test_what_a_dropped_frame_knew_goes_on_with_the_next():
    found, own = (Detections(np.array([[x, 10, 40, 90]], np.float32), np.ones(1, np.float32)) for x in (1, 2))
    dropped = Packet(Frame(3, 0.12, texture(1), dropped_before=2, lost_before_s=1.5), detections=found)
    after = Packet(Frame(4, 0.16, texture(1), dropped_before=1, lost_before_s=0.25))
    kept = count_dropped(dropped, after)
    assert kept.detections is found  # with `detector.every` there are no others for a while
    assert (kept.frame.frame_id, kept.frame.dropped_before, kept.frame.lost_before_s) == (4, 4, 1.75)
    assert count_dropped(dropped, replace(after, detections=own)).detections is own
    first, second = Frame(0, 0.0, texture(1), new_scene=True), Frame(1, 0.04, texture(1))
    assert count_dropped(first, second).new_scene  # before anybody was looked for


def test_nobody_is_carried_over_a_cut():
    smooth = SmoothStage(KeypointSmoother(SmoothConfig(), COCO17))
    there = _people([1, 2])
    frames = [texture(1)] * 5 + [texture(2)] * 5
    shown = []
    for number, image in enumerate(frames):
        frame = Frame(number, number / 25, image)
        poses = there if number < 5 else _people([3]) if number < 8 else Poses.empty(17)
        packet = Packet(frame, poses=poses, new_scene=number == 5)
        (out,) = smooth.process(packet)
        shown.append(out.poses.track_ids.tolist())
    assert shown[:5] == [[1, 2]] * 5
    assert shown[5:] == [[3]] * 5  # the last two are predicted


def _people(ids):
    n = len(ids)
    points = np.full((n, 17, 2), 50.0) + np.arange(17)[:, None]
    scores = np.full((n, 17), 0.9)
    boxes = np.tile([40.0, 40, 80, 80], (n, 1))
    return Poses(boxes, np.ones(n), np.array(ids), points, scores, points, scores, np.ones(n), np.ones(n))
