"""People who come back are known again by how they look, nobody else is taken for them, and the network learns that."""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
from dataclasses import replace
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tracking_worlds import Score, follow, idf1, leaving, looks, score, world

from sharpose_rt.cli import main
from sharpose_rt.commands import train_appearance
from sharpose_rt.config import TrackerConfig
from sharpose_rt.engine import Appearance
from sharpose_rt.errors import ConfigError, DatasetError, OutputError, WeightsError
from sharpose_rt.evaluation.appearance import pairs
from sharpose_rt.geometry.affine import crop_affine, warp_crops
from sharpose_rt.media.demo_clip import read_photograph
from sharpose_rt.models import VARIANTS
from sharpose_rt.models.appearance import CROP_HW, DIMENSIONS, PADDING, SHIPPED, AppearanceNetwork, load_appearance
from sharpose_rt.models.weights import read_safetensors, write_safetensors
from sharpose_rt.skeleton import COCO17
from sharpose_rt.stages import TrackStage
from sharpose_rt.tracking import create_tracker
from sharpose_rt.tracking.memory import (
    ENOUGH,
    EVEN_ALIKE,
    KNOWN,
    MOST,
    NEAR,
    RETURNS_S,
    SIZES,
    WAIT_S,
    WALKS_PER_S,
    Experience,
    Left,
    Looks,
    Memory,
    Newcomer,
    decide,
    likeness,
    mean_look,
    who,
)
from sharpose_rt.tracking.sharpose_tracker import LOOKS, LOOKS_PER_S, _contest, _covered
from sharpose_rt.training.appearance import (
    HELD_HW,
    AppearanceRecipe,
    AppearanceTrainer,
    alike_loss,
    hold,
    vary,
)
from sharpose_rt.training.pictures import Picture
from sharpose_rt.types import Detections, Frame, Packet
from tests.people_set import SMALL, write_set

BOX = np.array([100, 100, 160, 300], np.float32)
UNKNOWN = Experience()
"""Of a scene of which nothing has been seen."""


def direction(seed: int) -> np.ndarray:
    vector = np.random.default_rng(seed).normal(0, 1, DIMENSIONS)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def seen(seed: int, times: int = ENOUGH, at_s: float = 0.0) -> Looks:
    found = Looks()
    for _ in range(times):
        found.add(direction(seed), at_s)
    return found


def newcomer(seed: int, box: np.ndarray = BOX, waited_s: float = 0.0) -> Newcomer:
    return Newcomer(seen(seed, 1), box, waited_s)


def left(track_id: int, seed: int, box: np.ndarray = BOX, seen_s: float = 0.0) -> Left:
    return Left(track_id, seen(seed), box, seen_s)


def mean_of(gone: list[Left]) -> np.ndarray:
    return mean_look([one.looks for one in gone])


# Who somebody is


def test_who_looks_the_same_is_the_same_and_who_does_not_is_not():
    gone = [left(7, seed=1), left(9, seed=2)]
    assert decide([newcomer(1)], gone, [], 3.0, UNKNOWN) == [7]
    assert decide([newcomer(2)], gone, [], 3.0, UNKNOWN) == [9]
    assert decide([newcomer(3)], gone, [], 3.0, UNKNOWN) == [0]
    assert decide([newcomer(1), newcomer(2), newcomer(3)], gone, [], 3.0, UNKNOWN) == [7, 9, 0]
    assert decide([], gone, [], 3.0, UNKNOWN) == []


def test_nobody_is_in_two_places():
    answers = decide([newcomer(1), newcomer(1)], [left(7, seed=1)], [], 3.0, UNKNOWN)
    assert sorted(answers, key=str) == [0, 7]


@given(st.floats(0, 20), st.floats(-4000, 4000), st.floats(0.2, 5))
def test_nobody_walks_faster_than_people_do_nor_grows(gap_s, way_px, size):
    height = 200.0
    middle = (BOX[:2] + BOX[2:]) / 2 + [way_px, 0]
    half = size * (BOX[2:] - BOX[:2]) / 2
    box = np.concatenate([middle - half, middle + half]).astype(np.float32)
    answer = decide([newcomer(1, box)], [left(7, seed=1)], [], gap_s, UNKNOWN)
    taller = height * max(size, 1)
    reach = taller * (NEAR + WALKS_PER_S * gap_s)
    ratio = max(size, 1 / size)
    if abs(abs(way_px) - reach) > 1 and abs(ratio - SIZES) > 1e-3:
        assert answer == [7 if abs(way_px) < reach and ratio < SIZES else 0]


def mixed(seed: int, share: float) -> Newcomer:
    """Somebody who looks like `seed` by a cosine of `share`."""
    own, other = direction(seed).astype(np.float64), direction(1000 + seed).astype(np.float64)
    other -= (other @ own) * own
    vector = share * own + math.sqrt(1 - share**2) * other / np.linalg.norm(other)
    found = Looks()
    found.add(vector.astype(np.float32), 0.0)
    return Newcomer(found, BOX, 0.0)


def test_of_two_who_look_the_same_nobody_knows_who_came_back():
    twins = [left(7, seed=1), left(8, seed=1)]
    shares = who(newcomer(1), twins, mean_of(twins), 3.0, UNKNOWN)
    assert shares[7] == shares[8] < 0.5 < KNOWN < who(newcomer(1), twins[:1], mean_of(twins[:1]), 3.0, UNKNOWN)[7]
    assert decide([newcomer(1)], twins, [], 3.0, UNKNOWN) == [None]
    assert decide([newcomer(1, waited_s=WAIT_S)], twins, [], 3.0, UNKNOWN) == [0]


def test_who_has_been_gone_for_longer_has_to_look_more_alike():
    gone = [left(7, seed=1)]
    soon, late = (who(mixed(1, 0.95), gone, mean_of(gone), at_s, UNKNOWN)[7] for at_s in (1.0, 30.0))
    odds = soon / (1 - soon), late / (1 - late)
    assert odds[0] / odds[1] == pytest.approx((1 + 30 / RETURNS_S) / (1 + 1 / RETURNS_S))


def test_what_all_people_share_is_no_likeness():
    """The light of a scene is in every look; it says nothing about who it is."""
    light = direction(99) * 3

    def lit(seed: int) -> Looks:
        found = Looks()
        for _ in range(ENOUGH):
            vector = direction(seed) + light
            found.add((vector / np.linalg.norm(vector)).astype(np.float32), 0.0)
        return found

    gone = [Left(i, lit(i), BOX, 0.0) for i in range(1, 9)]
    present = [lit(20 + i) for i in range(8)]
    assert lit(30).vector @ lit(31).vector > 0.8
    assert decide([Newcomer(lit(30), BOX, 0.0)], gone, present, 3.0, UNKNOWN) == [0]
    assert decide([Newcomer(lit(3), BOX, 0.0)], gone, present, 3.0, UNKNOWN) == [3]


def test_who_is_not_quite_clear_waits_for_another_look_but_not_for_long():
    gone = [left(7, seed=1)]
    share = next(
        s
        for s in np.linspace(0, 1, 200)
        if 0.35 < who(mixed(1, s), gone, mean_of(gone), 3.0, UNKNOWN)[7] < KNOWN - 0.05
    )
    assert decide([mixed(1, share)], gone, [], 3.0, UNKNOWN) == [None]
    assert decide([replace(mixed(1, share), waited_s=WAIT_S)], gone, [], 3.0, UNKNOWN) == [0]


def test_the_memory_forgets():
    memory = Memory(remember_s=10.0)
    memory.keep(Left(1, seen(1, ENOUGH - 1), BOX, 0.0))  # hardly seen
    memory.keep(left(2, 2, seen_s=0.0))
    memory.keep(left(3, 3, seen_s=5.0))
    assert [one.track_id for one in memory.gone] == [2, 3]
    memory.advance(10.5)
    assert [one.track_id for one in memory.gone] == [3]
    memory.advance(11.0, np.array([[1, 0, 30], [0, 1, -10.0]]))
    np.testing.assert_allclose(memory.gone[0].bbox_xyxy, BOX + np.array([30, -10, 30, -10]))
    memory.take({3})
    assert not memory.gone
    for number in range(1, MOST + 11):
        memory.keep(left(number, number, seen_s=11.0))
    assert [one.track_id for one in memory.gone] == list(range(11, MOST + 11))
    memory.forget()
    assert not memory.gone


def test_old_looks_fade():
    found = seen(1, 50)
    for _ in range(60):
        found.add(direction(2), 1.0)
    assert found.vector @ direction(2) > 0.9
    assert np.linalg.norm(found.vector) == pytest.approx(1)


def experience(same: list[int], others: list[int]) -> Experience:
    """Of a scene in which one person looked like these directions each time, and another one like those."""
    learnt = Experience()
    for face, other in zip(same, others, strict=True):
        learnt.learn(direction(face), seen(1), [seen(other)], np.zeros(DIMENSIONS))
    return learnt


def test_where_two_look_alike_likeness_says_little():
    uniform, usual = experience([1] * 60, [1] * 60), experience([1] * 60, [2] * 60)
    gone = [left(7, 1)]
    nothing = np.zeros(DIMENSIONS)
    assert who(newcomer(1), gone, nothing, 1.0, UNKNOWN)[7] > 0.9
    assert who(newcomer(1), gone, nothing, 1.0, usual)[7] > 0.9
    assert who(newcomer(1), gone, nothing, 1.0, uniform)[7] < 0.6
    assert decide([newcomer(1)], gone, [seen(2)], 1.0, UNKNOWN) == [7]
    assert decide([newcomer(1)], gone, [seen(2)], 1.0, uniform) == [0]  # nobody waits for what tells nothing
    assert usual.tells
    assert UNKNOWN.tells
    assert not uniform.tells


def test_where_people_change_their_looks_unlikeness_says_little():
    changing = experience(list(range(100, 160)), [2] * 60)  # each look of one person is like no other
    assert UNKNOWN.odds(np.array([0.0]))[0] < 0.001
    assert changing.odds(np.array([0.0]))[0] > 0.3
    assert not changing.tells


@given(st.lists(st.floats(-1, 1), max_size=40), st.lists(st.floats(-1, 1), max_size=40))
def test_a_scene_makes_likeness_say_less_but_never_the_contrary(same, others):
    learnt = Experience()
    learnt._same.extend(same)
    learnt._others.extend(others)
    grid = np.linspace(-1, 1, 101)
    odds = learnt.odds(grid)
    alone = UNKNOWN.odds(grid)
    assert ((odds - 1) * (alone - 1) >= 0).all()
    assert (np.abs(np.log(odds)) <= np.abs(np.log(alone)) + 1e-9).all()


# In the tracker


@cache
def followed(remember_s: float, noise: float = 0.75) -> tuple[Score, int]:
    total, again = Score(), 0
    for seed in range(50, 56):
        views = leaving(world(seed, people=6, seconds=20), seed)
        tracker = create_tracker(TrackerConfig(remember_s=remember_s), COCO17)
        total += score(views, follow(views, tracker, look_at=looks(seed, 6, noise)))
        again += tracker.known_again
    return total, again


def test_people_who_come_back_keep_their_ids():
    without, with_memory = followed(0.0), followed(30.0)
    assert without[1] == 0
    assert without[0].switches >= 8
    assert with_memory[0].switches <= 0.4 * without[0].switches
    assert with_memory[0].ids < without[0].ids
    assert with_memory[0].tracked >= 0.995 * without[0].tracked  # hardly anybody waits


def test_who_cannot_be_told_apart_gets_new_ids_as_before():
    """A network that knows nobody costs nothing but the chance."""
    without, blind = followed(0.0), followed(30.0, noise=20.0)
    assert blind[0].switches <= without[0].switches + 1
    assert blind[0].tracked >= 0.99 * without[0].tracked


def boxes(*lefts: float, width: float = 60.0) -> Detections:
    found = np.array([[x, 100, x + width, 300] for x in lefts], np.float32).reshape(-1, 4)
    return Detections(found, np.full(len(found), 0.9, np.float32))


class Stage:
    """A stage over frames of 25 a second, in which each detection looks like the one of its place in `faces`."""

    def __init__(self, **options) -> None:
        self.tracker = create_tracker(TrackerConfig(**options), COCO17)
        self.faces: list[int] = []
        self.asked = 0
        self.width = 60.0
        self.stage = TrackStage(self.tracker, look=self.look)
        self.number = 0

    def look(self, image: np.ndarray, bboxes_xyxy) -> np.ndarray:
        self.asked += len(bboxes_xyxy)
        places = [self.places.index(float(box[0])) for box in bboxes_xyxy]
        return np.stack([direction(self.faces[place]) for place in places])

    def step(self, frames: int, *people: tuple[float, int], new_scene: bool = False) -> list[int]:
        """Ids of the last of so many frames with people, each at a place and with a face."""
        for _ in range(frames):
            self.places, self.faces = [x for x, _ in people], [face for _, face in people]
            frame = Frame(self.number, self.number / 25, np.zeros((400, 900, 3), np.uint8))
            packet = Packet(frame, detections=boxes(*self.places, width=self.width), new_scene=new_scene)
            (out,) = self.stage.process(packet)
            self.number, new_scene = self.number + 1, False
        assert out.tracks is not None
        self.tracks = out.tracks
        return out.tracks.track_ids.tolist()

    def ids_by_face(self, faces: list[int]) -> list[int]:
        """Who in the last frame has each of these faces."""
        places = [self.places[self.faces.index(face)] for face in faces]
        lefts = self.tracks.bboxes_xyxy[:, 0].tolist()
        return [int(self.tracks.track_ids[lefts.index(x)]) for x in places]


def test_ids_of_those_who_left_wait_for_them():
    stage = Stage()
    assert stage.step(50, (100, 1), (500, 2)) == [1, 2]
    assert stage.step(60, (500, 2)) == [2]
    assert stage.step(10, (500, 2), (200, 3)) == [2, 3]  # somebody else, where the first one was
    assert stage.step(60, (500, 2), (200, 3), (110, 1)) == [1, 2, 3]
    assert stage.tracker.known_again == 1


def test_who_came_back_once_is_known_again_at_once_the_next_time():
    """What was known of them before they left goes on with them."""
    stage = Stage()
    stage.step(50, (100, 1))
    for _ in range(3):
        stage.step(40)
        assert stage.step(4, (120, 1)) == [1]  # too short a visit to be looked at often enough
    assert stage.tracker.known_again == 3


def test_a_new_scene_and_too_long_a_time_are_new_people():
    stage = Stage(remember_s=4.0)
    stage.step(50, (100, 1))
    stage.step(125)  # 5 s
    assert stage.step(10, (100, 1)) == [2]
    stage.step(50, (100, 1))
    stage.step(30)
    assert stage.step(10, (100, 1), new_scene=True) == [3]


def test_who_is_remembered_is_off_by_choice_and_then_nobody_is_looked_at():
    stage = Stage(remember_s=0.0)
    stage.step(50, (100, 1))
    stage.step(50)
    assert stage.step(10, (100, 1)) == [2]
    assert stage.asked == 0
    with pytest.raises(ConfigError, match=r"tracker\.remember_s is -1"):
        TrackerConfig(remember_s=-1)


def test_people_are_looked_at_now_and_then_only():
    stage = Stage()
    stage.step(250, *((100 + 90 * i, i) for i in range(6)))
    assert 6 * ENOUGH <= stage.asked <= 6 * (ENOUGH + 11)


def test_who_is_hidden_by_others_is_not_learnt():
    stage = Stage()
    stage.step(100, (100, 1), (120, 2))  # each lies in the other's box
    assert stage.asked == 0


def test_a_jump_in_time_ends_tracks_but_not_the_memory():
    """A camera that was gone for a while shows the same room again."""
    stage = Stage()
    stage.step(50, (100, 1), (400, 2))
    stage.number += 25 * 5
    assert stage.step(10, (120, 1), (380, 2)) == [1, 2]


# While they are followed


WIDE = 200.0


def meet(stage: Stage, gap_frames: int = 8) -> list[int]:
    """Ids of two people, of faces 1 and 2, who come close and, in a gap between two frames, change places.

    Boxes alone say that each stayed: they overlap more so.
    """
    stage.width = WIDE
    stage.step(40, (100, 1), (500, 2))
    for x in range(100, 250, 10):
        stage.step(1, (x, 1), (500, 2))
    for x in range(500, 320, -10):
        stage.step(1, (240, 1), (x, 2))
    assert stage.step(25, (240, 1), (320, 2)) == [1, 2]
    stage.number += gap_frames
    stage.step(1, (250, 2), (310, 1))
    return stage.ids_by_face([2, 1])


def test_looks_tell_apart_who_met():
    assert meet(Stage()) == [2, 1]
    assert meet(Stage(remember_s=0.0)) == [1, 2]


def test_who_lies_in_the_box_of_another_is_where_they_were_a_moment_before():
    """Such a box shows both, and nobody changes places from one frame to the next."""
    assert meet(Stage(), gap_frames=0) == [1, 2]


@given(st.integers(0, 1000), st.integers(0, 6))
def test_covered_is_the_share_that_lies_in_another_box(seed, count):
    corners = np.sort(np.random.default_rng(seed).integers(0, 12, (count, 2, 2)), 1)
    corners[:, 1] += 1
    covered = _covered(corners.reshape(-1, 4).astype(np.float32))
    assert covered.shape == (count,)
    cells = np.zeros((count, 13, 13), bool)
    for cell, ((x0, y0), (x1, y1)) in zip(cells, corners, strict=True):
        cell[x0:x1, y0:y1] = True
    for row, cell in enumerate(cells):
        shares = [(cell & other).sum() / cell.sum() for other in np.delete(cells, row, 0)]
        assert covered[row] == pytest.approx(max(shares, default=0))


def test_looks_do_not_outweigh_where_people_are():
    """A step later than it would take them to change places, each is where they were, but looks like the other."""
    stage = Stage()
    stage.step(60, (100, 1), (500, 2))
    stage.step(1, (100, 2), (500, 1))
    assert stage.ids_by_face([2, 1]) == [1, 2]


@pytest.mark.parametrize("gap_frames", [0, 12, 1000])
def test_few_are_looked_at_in_a_frame(gap_frames):
    """More the longer the time from frame to frame, but never more than `LOOKS` of the contested and of the others."""
    stage, dt_s = Stage(max_lost_s=60.0), (gap_frames + 1) / 25
    most = int(np.clip(LOOKS_PER_S * dt_s, *LOOKS))
    people = [(100 + 45 * i, i) for i in range(40)]  # each lies in the boxes beside it: contested, and never alone
    apart = [(100 + 70 * i, i) for i in range(40)]
    stage.step(60, *apart)
    assert stage.asked >= 40 * ENOUGH
    asked = []
    for places in (people, people, apart, apart):
        before, stage.number = stage.asked, stage.number + gap_frames
        stage.step(1, *places)
        asked.append(stage.asked - before)
    assert max(asked) <= 2 * most


def test_looks_keep_people_apart_in_a_crowd():
    """Over worlds of people who meet and hide each other; where looks tell nothing it does no harm."""

    def mean(remember_s: float, noise: float = 0.75, same: bool = False) -> float:
        found = []
        for seed in (20, 21, 120, 121):
            views = world(seed, people=16)
            tracker = create_tracker(TrackerConfig(remember_s=remember_s), COCO17)
            look_at = (lambda view: lambda at: np.tile(direction(1), (len(at), 1))) if same else looks(seed, 16, noise)
            found.append(idf1(views, follow(views, tracker, look_at=look_at)))
        return float(np.mean(found))

    without = mean(0.0)
    assert mean(30.0) >= without + 0.01
    assert mean(30.0, same=True) == pytest.approx(without, abs=0.005)
    assert mean(30.0, noise=20.0) == pytest.approx(without, abs=0.005)


@given(st.lists(st.lists(st.sampled_from([0.0, 0.2, 0.5, 0.9]), min_size=3, max_size=3), min_size=1, max_size=5))
def test_contested_is_what_has_a_rival(rows):
    similarity = np.array(rows, np.float32)
    contest = _contest(similarity)
    assert contest.shape == similarity.shape
    for (t, d), value in np.ndenumerate(similarity):
        others = np.concatenate([np.delete(similarity[t], d), np.delete(similarity[:, d], t)])
        rival = others.max(initial=0)
        assert contest[t, d] == pytest.approx(min(value, rival) / max(value, rival) if max(value, rival) else 0)


def test_likeness_is_even_at_its_middle_and_says_who():
    people, vectors = [seen(1), seen(2)], np.stack([direction(2), direction(1), direction(3)])
    likely = likeness(people, vectors, np.zeros(DIMENSIONS), UNKNOWN)
    assert likely.shape == (2, 3)
    assert likely[0].argmax() == 1
    assert likely[1].argmax() == 0
    assert likely[:, 2].max() < 0.1
    at = direction(1) * EVEN_ALIKE + np.sqrt(1 - EVEN_ALIKE**2) * _across(direction(1))
    even = likeness([seen(1)], at[None], np.zeros(DIMENSIONS), UNKNOWN)
    assert even[0, 0] == pytest.approx(0.5, abs=1e-4)


def _across(vector: np.ndarray) -> np.ndarray:
    other = direction(9) - direction(9) @ vector * vector
    return other / np.linalg.norm(other)


# The network


@pytest.fixture(scope="module")
def bus() -> np.ndarray:
    return read_photograph("bus.jpg")


BUS = np.array([[48, 400, 245, 903], [222, 405, 345, 858], [670, 390, 810, 880]], np.float32)
"""Three people of that photograph."""


def test_the_shipped_network_knows_people_in_another_light_crop_and_size(bus):
    appearance = Appearance()
    first = appearance.look(bus, BUS)
    np.testing.assert_allclose(np.linalg.norm(first, axis=1), 1, atol=1e-5)
    dark = cv2.resize((bus * 0.8).astype(np.uint8), None, fx=0.3, fy=0.3, interpolation=cv2.INTER_AREA)
    shifted = BUS + np.array([8, -10, 12, 6], np.float32)
    again = appearance.look(dark, 0.3 * shifted)
    alike = first @ again.T
    assert (alike.argmax(1) == np.arange(3)).all()
    assert alike.diagonal().min() > alike[~np.eye(3, dtype=bool)].max() + 0.2
    assert appearance.look(bus, np.zeros((0, 4))).shape == (0, DIMENSIONS)


def test_looking_leaves_the_programs_random_numbers_alone(bus):
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    Appearance().look(bus, BUS)
    assert torch.equal(torch.rand(3), wanted)


def test_the_card_is_of_what_ships():
    card = json.loads(SHIPPED.with_suffix(".json").read_text(encoding="utf-8"))
    assert {"sha256", "metrics"} <= set(card)
    load_appearance()  # compares the SHA-256
    assert SHIPPED.stat().st_size < 1 << 20


def test_a_file_of_another_network_is_refused(tmp_path):
    state, _ = read_safetensors(SHIPPED)
    state.popitem()
    write_safetensors(state, tmp_path / "other.safetensors", {})
    with pytest.raises(WeightsError, match="is not an appearance network of this version"):
        load_appearance(tmp_path / "other.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"no weights")
    with pytest.raises(WeightsError):
        load_appearance(tmp_path / "broken.safetensors")


# Training


@given(st.integers(0, 2**31), st.integers(1, 9))
@settings(max_examples=20)
def test_views_are_crops_of_usual_colours(seed, count):
    held = torch.randint(0, 256, (count, 3, *HELD_HW), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    first = vary(held, torch.Generator().manual_seed(seed))
    assert first.shape == (count, 3, *CROP_HW)
    assert torch.isfinite(first).all()
    assert -2.2 < first.min() <= first.max() < 2.7  # 0 and 255, normalised
    assert torch.equal(first, vary(held, torch.Generator().manual_seed(seed)))
    assert not torch.equal(first, vary(held, torch.Generator().manual_seed(seed + 1)))


def test_views_look_as_the_network_sees_people(bus, tmp_path):
    """What is held, unvaried in its middle, is the crop that a run makes: same channels, place and scale."""
    cv2.imwrite(str(tmp_path / "bus.png"), bus)
    none = np.zeros((0, 4))
    held = hold([Picture(str(tmp_path / "bus.png"), BUS.astype(np.float64), none)] * 4, workers=0)
    assert held.shape == (12, 3, *HELD_HW)
    crops = warp_crops(bus, crop_affine(BUS, (CROP_HW[1], CROP_HW[0]), PADDING), (CROP_HW[1], CROP_HW[0]))
    h, w = CROP_HW
    y, x = (HELD_HW[0] - h) // 2, (HELD_HW[1] - w) // 2
    middle = held[:3, :, y : y + h, x : x + w].permute(0, 2, 3, 1).flip(3).numpy()
    off = np.abs(cv2.blur(middle[0], (5, 5)).astype(int) - cv2.blur(crops[0], (5, 5)))
    assert off.mean() < 4


def test_a_picture_that_cannot_be_read_ends_those_who_read(tmp_path):
    """Workers leave SIGTERM alone, so that the process would wait for them for ever."""
    with pytest.raises(DatasetError, match=r"gone\.png is missing") as _raised:  # its traceback holds the loader
        hold([Picture(str(tmp_path / "gone.png"), BUS.astype(np.float64), np.zeros((0, 4)))], workers=1)
    assert not multiprocessing.active_children()


def test_the_loss_is_small_where_everybody_is_nearest_to_themselves():
    a = torch.eye(8)
    good, right = alike_loss(a, a)
    bad, wrong = alike_loss(a, a.roll(1, 0))
    assert (float(right), float(wrong)) == (1, 0)
    assert good < 0.01 < 10 < bad


def arguments(folder: Path, **changed) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    train_appearance.add_arguments(parser)
    given = ["--data-root", str(folder), "--set", "people", "--out", str(folder / "a.safetensors")]
    small = ["--minutes", "0.005", "--people", "12", "--workers", "0", "--threads", "1"]
    args = parser.parse_args([*given, *small])
    return argparse.Namespace(**(vars(args) | changed))


def test_a_run_learns_and_writes_a_file_that_runs(tmp_path, bus, capsys):
    write_set(tmp_path / "people", pictures=8)
    assert train_appearance.run(arguments(tmp_path)) == 0
    assert "8 pictures, 16 people" in capsys.readouterr().out
    _, facts = read_safetensors(tmp_path / "a.safetensors")
    assert facts["trained_on"] == "people"
    assert int(facts["trained_steps"]) >= 1
    assert Appearance(tmp_path / "a.safetensors").look(bus, BUS).shape == (3, DIMENSIONS)
    with pytest.raises(OutputError, match="exists"):
        train_appearance.run(arguments(tmp_path))


def test_training_brings_views_of_one_person_together():
    clouds = torch.rand(48, 3, 6, 4, generator=torch.Generator().manual_seed(0)) * 255
    held = torch.nn.functional.interpolate(clouds, HELD_HW, mode="bilinear").to(torch.uint8)
    trainer = AppearanceTrainer(held, AppearanceRecipe(people=12, minutes=10, precision="fp32"))
    losses = [trainer._step()[0] for _ in range(24)]
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])
    same = AppearanceTrainer(held, AppearanceRecipe(people=12, minutes=10, precision="fp32"))
    assert same._step()[0] == losses[0]  # by the seed alone
    assert isinstance(trainer.averaged(), AppearanceNetwork)


def test_everybody_is_looked_at(monkeypatch):
    seen: set[int] = set()

    def look(people, _):
        seen.update(people.tolist())
        raise DatasetError

    monkeypatch.setattr("sharpose_rt.training.appearance.vary", look)
    trainer = AppearanceTrainer(torch.arange(12), AppearanceRecipe(people=24))
    for _ in range(40):
        with pytest.raises(DatasetError):
            trainer._step()
    assert seen == set(range(12))


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"out": "a.pt"}, ConfigError, "ends in .safetensors"),
        ({"set": []}, ConfigError, "--set names no dataset"),
        ({"minutes": 0.0}, ConfigError, "minutes is 0; above 0"),
        ({"people": 3}, ConfigError, "people is 3"),
        ({"minutes": math.nan}, ConfigError, "minutes is nan"),
        ({"lr": -1.0}, ConfigError, "lr is -1"),
        ({"threads": -1}, ConfigError, "threads is -1"),
        ({"workers": -1}, ConfigError, "workers is -1"),
        ({"precision": "fp8"}, ConfigError, "precision is 'fp8'"),
        ({"seed": -1}, ConfigError, "seed is -1"),
        ({"set": ["nobody"]}, DatasetError, "no set 'nobody'"),
        ({"out": "nowhere/a.safetensors"}, OutputError, "there is no folder"),
    ],
)
def test_wrong_options_are_told(tmp_path, monkeypatch, changed, error, message):
    monkeypatch.chdir(tmp_path)
    write_set(tmp_path / "people", pictures=1)
    with pytest.raises(error, match=message):
        train_appearance.run(arguments(tmp_path, **changed))


def test_a_picture_that_is_missing_is_told_without_the_traceback_of_a_worker(tmp_path):
    folder = write_set(tmp_path / "people", pictures=2)
    (folder / "images" / "2.png").unlink()
    with pytest.raises(DatasetError, match=r"^the picture \S+2\.png is missing"):
        train_appearance.run(arguments(tmp_path, workers=1))


def test_too_few_people_are_told(tmp_path):
    write_set(tmp_path / "people", pictures=2)
    with pytest.raises(DatasetError, match="show 4 people of 60 px"):
        train_appearance.run(arguments(tmp_path))


# Measuring


def test_pairs_of_a_perfect_and_of_a_blind_network():
    times = np.repeat(np.arange(0, 10, 0.5), 4)
    ids = np.tile(np.arange(1, 5), 20)
    own = np.stack([direction(i) for i in range(5)])
    perfect = pairs(own[ids], ids, times)
    assert perfect["people"] == 4
    assert perfect["looks"] == 80
    assert perfect["auc_1_to_3_s"] == perfect["known_again_3_to_8_s"] == 1.0
    assert perfect["same_1_to_3_s"] == 4 * (18 + 17 + 16 + 15)
    assert perfect["other_1_to_3_s"] == 3 * perfect["same_1_to_3_s"]
    blind = pairs(np.random.default_rng(0).normal(0, 1, (80, 64)).astype(np.float32), ids, times)
    assert 0.4 < blind["auc_1_to_3_s"] < 0.6
    assert blind["known_again_1_to_3_s"] < 0.06
    with pytest.raises(DatasetError, match="both are wanted"):
        pairs(own[ids][ids == 1], ids[ids == 1], times[ids == 1])


def test_the_network_is_measured_on_a_video_of_its_stream(tmp_path, shared_dir, capsys, monkeypatch):
    monkeypatch.setitem(VARIANTS, SMALL.name, SMALL)
    video = str(shared_dir / "video/supervision_walking.mp4")
    options = ["--no-video", "--quiet", "--max-frames", "45", "--stride", "2", "--detector", "bundled"]
    cheap = ["--model", SMALL.name, "--weights", "random", "--tracker", "bytetrack", "--region", "100,100 700,600"]
    cheap += ["--detector-size", "320", "--output", str(tmp_path)]
    assert main(["--source", video, *options, *cheap]) == 0
    stream, out = str(tmp_path / "supervision_walking.skeletons.jsonl"), str(tmp_path / "m.json")
    assert main(["eval-appearance", stream, video, "--json", out]) == 0
    metrics = json.loads(Path(out).read_text())
    assert "auc_1_to_3_s" in capsys.readouterr().out
    assert metrics["people"] > 10
    assert metrics["auc_1_to_3_s"] > 0.85
    other = str(shared_dir / "video/sports2d_demo.mp4")
    assert main(["eval-appearance", stream, other]) == 2
    assert "give the video they were made from" in capsys.readouterr().err
