"""Kalman filters against filterpy, and what smoothing must do to people."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from filterpy.common import Q_continuous_white_noise
from filterpy.kalman import KalmanFilter, rts_smoother
from hypothesis import given, settings
from hypothesis import strategies as st

from sharpose_rt.config import SmoothConfig
from sharpose_rt.skeleton import COCO17
from sharpose_rt.tracking import KeypointSmoother, kalman, motion, rts_smooth
from sharpose_rt.tracking.kalman import Motion
from sharpose_rt.types import Poses, PoseStage

K = len(COCO17)
CONFIG = SmoothConfig()
FIELDS = ("bboxes_xyxy", "bbox_scores", "track_ids", "keypoints", "keypoint_scores", "raw_keypoints", "stage")
Frames = list[tuple[float, Poses]]


def people(points: np.ndarray, ids: list[int], scores: np.ndarray | float = 0.8, height: float = 200.0) -> Poses:
    """People with keypoints `points` (N, K, 2) and boxes of `height` around their means."""
    n = len(ids)
    points = np.asarray(points, np.float32).reshape(n, K, 2)
    scores = np.broadcast_to(np.asarray(scores, np.float32), (n, K))
    centre = points.mean(1)
    half = np.array([height / 4, height / 2])
    boxes = np.concatenate([centre - half, centre + half], 1)
    one = np.ones(n, np.float32)
    stage = np.full(n, PoseStage.FINE)
    return Poses(boxes, one * 0.9, np.array(ids), points, scores, points, scores, one * 0.7, stage)


def shape(rng: np.random.Generator, height: float = 200.0) -> np.ndarray:
    return rng.uniform([0, 0], [height / 2, height], (K, 2)) + 100


def walkers(seed: int, count: int = 3, frames: int = 40, fps: float = 30.0, noise_px: float = 2.0) -> Frames:
    """`count` people who walk and wave, with noise, at uneven times."""
    rng = np.random.default_rng(seed)
    times = np.cumsum(rng.uniform(0.5, 1.5, frames) / fps)
    bodies = np.stack([shape(rng) + 400 * i for i in range(count)])
    speed = rng.uniform(-150, 150, (count, 1, 2))
    wave = rng.uniform(0, 20, (count, K, 1))
    out = []
    for t in times:
        points = bodies + speed * t + wave * np.sin(8 * t) + rng.normal(0, noise_px, bodies.shape)
        out.append((float(t), people(points, list(range(1, count + 1)), rng.uniform(0.4, 0.95, (count, K)))))
    return out


def run(frames: Frames, config: SmoothConfig = CONFIG) -> list[Poses]:
    smoother = KeypointSmoother(config, COCO17)
    return [smoother.update(poses, pts_s) for pts_s, poses in frames]


def assert_same(a: list[Poses], b: list[Poses], atol: float = 1e-3) -> None:
    assert len(a) == len(b)
    for one, two in zip(a, b, strict=True):
        for name in FIELDS:
            np.testing.assert_allclose(getattr(one, name), getattr(two, name), rtol=0, atol=atol, err_msg=name)


# The filter itself

steps = st.lists(
    st.tuples(st.floats(0.001, 1.0), st.floats(-1000, 1000), st.floats(0.1, 30), st.booleans()), min_size=2, max_size=25
)


def reference(items: list[tuple[float, float, float, bool]], density: float) -> tuple[list[KalmanFilter], list, list]:
    """filterpy's filter after each step, with the F and Q of each step."""
    kf = KalmanFilter(dim_x=2, dim_z=1)
    kf.x, kf.P = np.array([[5.0], [0.0]]), np.diag([9.0, 400.0])
    kf.H = np.array([[1.0, 0.0]])
    states, fs, qs = [], [], []
    for dt, z, std, measured in items:
        F = np.array([[1, dt], [0, 1]])
        Q = Q_continuous_white_noise(2, dt, density)
        kf.predict(F=F, Q=Q)
        if measured:
            kf.update(np.array([[z]]), R=np.array([[std**2]]))
        states.append((kf.x.copy(), kf.P.copy()))
        fs.append(F)
        qs.append(Q)
    return states, fs, qs


def ours(items: list[tuple[float, float, float, bool]], density: float) -> list[Motion]:
    state = kalman.begin(np.array([5.0]), np.array([3.0]), np.array([20.0]))
    states = []
    for dt, z, std, measured in items:
        state = kalman.predict(state, dt, density)
        if measured:
            state = kalman.update(state, np.array([z]), np.array([std]))
        states.append(state)
    return states


def assert_matches(state: Motion, x: np.ndarray, P: np.ndarray) -> None:
    scale = max(1.0, np.abs(x).max(), np.abs(P).max())
    np.testing.assert_allclose([state.x[0], state.v[0]], x[:, 0], rtol=1e-6, atol=1e-6 * scale)
    mine = [state.pxx[0], state.pxv[0], state.pvv[0]]
    np.testing.assert_allclose(mine, [P[0, 0], P[0, 1], P[1, 1]], rtol=1e-6, atol=1e-9 * scale)


@settings(max_examples=30)
@given(steps, st.floats(0.1, 1e5))
def test_filter_matches_filterpy(items, density):
    states, _, _ = reference(items, density)
    for mine, (x, P) in zip(ours(items, density), states, strict=True):
        assert_matches(mine, x, P)


@settings(max_examples=30)
@given(steps, st.floats(0.1, 1e5))
def test_backward_pass_matches_filterpy(items, density):
    states, fs, qs = reference(items, density)
    # filterpy's function takes the F and Q of the step from k to k + 1 at k.
    means, covariances = np.array([x for x, _ in states]), np.array([P for _, P in states])
    xs, ps, _, _ = rts_smoother(means, covariances, [*fs[1:], fs[-1]], [*qs[1:], qs[-1]])
    mine = ours(items, density)
    later = mine[-1]
    for k in range(len(mine) - 2, -1, -1):
        later = kalman.smooth_back(mine[k], later, items[k + 1][0], density)
        assert_matches(later, xs[k], ps[k])


@settings(max_examples=30)
@given(steps, st.floats(1e-3, 1e6))
def test_covariance_stays_positive(items, density):
    forward = ours(items, density)
    later, backward = forward[-1], []
    for k in range(len(forward) - 2, -1, -1):
        later = kalman.smooth_back(forward[k], later, items[k + 1][0], density)
        backward.append(later)
    for state in forward + backward:
        assert state.pxx[0] > 0
        assert state.pvv[0] > 0
        assert state.pxx[0] * state.pvv[0] >= state.pxv[0] ** 2 * (1 - 1e-9)


@settings(max_examples=40)
@given(st.floats(0, 1), st.floats(0, 1), st.floats(0.1, 1e4))
def test_two_short_steps_are_one_long_step(first, second, density):
    state = kalman.update(
        kalman.begin(np.array([1.0]), np.array([2.0]), np.array([30.0])), np.array([4.0]), np.array([1.0])
    )
    once = kalman.predict(state, first + second, density)
    twice = kalman.predict(kalman.predict(state, first, density), second, density)
    np.testing.assert_allclose(np.ravel(once.arrays()), np.ravel(twice.arrays()), rtol=1e-9, atol=1e-9)


# People


@pytest.mark.parametrize("smooth", [run, lambda f: rts_smooth(f, CONFIG, COCO17)], ids=["causal", "rts"])
class TestBothWays:
    def test_a_constant_stays_the_constant(self, smooth):
        body = shape(np.random.default_rng(0))
        frames = [(i / 25, people(body[None], [1])) for i in range(20)]
        for poses in smooth(frames):
            np.testing.assert_allclose(poses.keypoints[0], body, atol=1e-4)

    def test_shift_of_time_changes_nothing(self, smooth):
        frames = walkers(1)
        # 1024 s: the shifted times round to fewer digits, not to other intervals that matter.
        assert_same(smooth(frames), smooth([(t + 1024.0, p) for t, p in frames]))

    def test_a_batch_equals_its_items(self, smooth):
        frames = walkers(2)
        together = smooth(frames)
        for row in range(3):
            alone = smooth([(t, take(p, [row])) for t, p in frames])
            assert_same([take(p, [row]) for p in together], alone, atol=0)

    def test_row_order_follows_the_input(self, smooth):
        frames = walkers(3)
        turned = [(t, take(p, [2, 0, 1]) if i % 2 else p) for i, (t, p) in enumerate(frames)]
        for i, (a, b) in enumerate(zip(smooth(frames), smooth(turned), strict=True)):
            assert_same([take(a, [2, 0, 1]) if i % 2 else a], [b], atol=0)

    @pytest.mark.parametrize("scale", [0.5, 3.0])
    def test_scales_with_the_picture(self, smooth, scale):
        frames = walkers(4)
        small, large = smooth(frames), smooth([(t, scaled(p, scale)) for t, p in frames])
        assert_same([scaled(p, scale) for p in small], large, atol=0.01)

    def test_raw_keypoints_stay(self, smooth):
        frames = walkers(5)
        for (_, before), after in zip(frames, smooth(frames), strict=True):
            np.testing.assert_array_equal(before.raw_keypoints, after.raw_keypoints)
            np.testing.assert_array_equal(before.raw_keypoint_scores, after.raw_keypoint_scores)
            assert not np.array_equal(before.raw_keypoints, after.keypoints) or before is frames[0][1]

    def test_nothing_crosses_a_change_of_id(self, smooth):
        """After an id change the result is that of a track which begins there."""
        frames = walkers(6, count=1)
        changed = [(t, p if i < 20 else replace(p, track_ids=np.array([2]))) for i, (t, p) in enumerate(frames)]
        tail = smooth([(t, p) for t, p in changed[20:]])
        for whole, alone in zip(smooth(changed)[20:], tail, strict=True):
            row = whole.track_ids.tolist().index(2)
            np.testing.assert_allclose(whole.keypoints[row], alone.keypoints[0], atol=1e-4)

    def test_a_jump_in_time_ends_the_state(self, smooth):
        early, late = walkers(7, count=1), walkers(8, count=1)
        late = [(t + 60.0, p) for t, p in late]
        assert_same(smooth(early + late)[len(early) :], smooth(late))

    def test_people_without_a_track_pass_as_they_are(self, smooth):
        frames = [(t, replace(p, track_ids=np.zeros(3, np.int64))) for t, p in walkers(9)]
        for (_, before), after in zip(frames, smooth(frames), strict=True):
            np.testing.assert_array_equal(before.raw_keypoints, after.keypoints)

    def test_nobody(self, smooth):
        assert [len(p) for p in smooth([(0.0, Poses.empty(K)), (0.1, Poses.empty(K))])] == [0, 0]

    def test_time_must_not_go_backwards(self, smooth):
        frames = walkers(10)
        with pytest.raises(ValueError, match="order of media time"):
            smooth([frames[1], frames[0]])

    def test_an_id_may_be_there_once(self, smooth):
        (t, p), *_ = walkers(11)
        with pytest.raises(ValueError, match="once"):
            smooth([(t, replace(p, track_ids=np.array([1, 1, 2])))])

    def test_equal_times_are_taken(self, smooth):
        (t, p), *_ = walkers(12)
        assert all(np.isfinite(out.keypoints).all() for out in smooth([(t, p), (t, p), (t, p)]))

    def test_short_gap_is_filled(self, smooth):
        """A person who walks evenly and is missing for 0.2 s is where the walk says."""
        body, speed = shape(np.random.default_rng(1)), np.array([200.0, 0.0])
        times = np.arange(40) / 25
        frames = [
            (t, Poses.empty(K) if 20 <= i < 25 else people((body + speed * t)[None], [7])) for i, t in enumerate(times)
        ]
        for i, poses in list(enumerate(smooth(frames)))[20:25]:
            assert poses.stage.tolist() == [PoseStage.PREDICTED]
            assert poses.track_ids.tolist() == [7]
            truth = body + speed * times[i]
            assert np.abs(poses.keypoints[0] - truth).max() < 10
            assert np.abs(poses.bboxes_xyxy[0].reshape(2, 2).mean(0) - truth.mean(0)).max() < 10
            np.testing.assert_array_equal(poses.raw_keypoints, poses.keypoints)
            assert not poses.raw_keypoint_scores.any()
            assert (poses.keypoint_scores > 0).all()

    @pytest.mark.parametrize(("there", "carried"), [(1, [0, 0, 0]), (4, [1, 1, 0]), (6, [1, 1, 1])])
    def test_nobody_is_carried_on_for_longer_than_they_had_been_there(self, smooth, there, carried):
        """Missing for 0.2 s between two sightings; a gap is filled backwards as a whole or not at all."""
        one = people(shape(np.random.default_rng(2))[None], [7])
        gap = range(there, there + 3)
        times = [0.05 * i + 0.01 * (i > gap[0]) for i in range(12)]
        out = smooth([(t, Poses.empty(K) if i in gap else one) for i, t in enumerate(times)])
        assert [len(out[i]) for i in gap] == (carried if smooth is run else [min(carried)] * 3)
        assert all(len(poses) == 1 for i, poses in enumerate(out) if i not in gap)

    @pytest.mark.parametrize("decimals", [15, 6, 3], ids=["exact", "stream", "matroska"])
    @pytest.mark.parametrize("fps", [25, 30])
    def test_rounded_times_change_nobody_who_is_carried_on(self, smooth, fps, decimals):
        """Somebody is there as long as they are missing, here or there in a clip; rts fills none of 0.6 s."""
        one = people(shape(np.random.default_rng(2))[None], [7])
        short, long = range(6, 11 if smooth is run else 10), range(40, 40 + round(0.6 * fps) - 1)
        filled = set()
        for begin in range(1, 9):
            times = [round((begin + i) / fps, decimals) for i in range(62)]
            out = smooth([(t, Poses.empty(K) if i in short or i in long else one) for i, t in enumerate(times)])
            filled.add(tuple(sum(len(out[i]) for i in gap) for gap in (short, long)))
        assert filled == {(len(short), len(long) if smooth is run else 0)}

    def test_nobody_is_carried_on_in_the_pose_of_another_who_is_there(self, smooth):
        """The tracker shows two tracks of one person as one; who only stands near is carried on."""
        rng = np.random.default_rng(3)
        body = shape(rng)
        both = np.stack([body, body, body + np.array([60, 0])])
        frames = []
        for i in range(40):
            everybody = people(both + rng.normal(0, 2, both.shape), [1, 2, 3])
            frames.append((i / 25, take(everybody, [0]) if 20 <= i < 24 else everybody))
        assert [poses.track_ids.tolist() for poses in smooth(frames)[19:25]] == [[1, 2, 3], *[[1, 3]] * 4, [1, 2, 3]]


def take(poses: Poses, rows: list[int]) -> Poses:
    return Poses(**{name: getattr(poses, name)[rows] for name in Poses.__dataclass_fields__})


def scaled(poses: Poses, scale: float) -> Poses:
    names = ("bboxes_xyxy", "keypoints", "raw_keypoints")
    return replace(poses, **{name: getattr(poses, name) * np.float32(scale) for name in names})


def causal(times: np.ndarray, raw: np.ndarray) -> np.ndarray:
    """(F, K, 2) smoothed keypoints of one person with raw keypoints (F, K, 2)."""
    frames = [(float(t), people(z[None], [1])) for t, z in zip(times, raw, strict=True)]
    return np.stack([poses.keypoints[0] for poses in run(frames)])


def test_jitter_falls_and_lag_stays_small():
    """Still people: accelerations fall to less than a third. Moving people: errors fall, lag is within 5 ms."""
    rng, fps = np.random.default_rng(0), 30
    body, times = shape(rng), np.arange(240) / fps
    for noise in (2.0, 4.0):
        raw = body + rng.normal(0, noise, (240, K, 2))
        smooth = np.stack(
            [p.keypoints[0] for p in run([(t, people(z[None], [1])) for t, z in zip(times, raw, strict=True)])]
        )
        jitter = [np.diff(a[30:], 2, axis=0).std() for a in (raw, smooth)]
        assert jitter[1] < jitter[0] / 3

    moving = body + 60 * np.stack([np.sin(4 * times), np.cos(4 * times)], -1)[:, None]
    raw = moving + rng.normal(0, 3.0, moving.shape)
    smooth = np.stack(
        [p.keypoints[0] for p in run([(t, people(z[None], [1])) for t, z in zip(times, raw, strict=True)])]
    )
    assert (smooth - moving)[30:].std() < 0.95 * (raw - moving)[30:].std()
    shifts = np.arange(-20, 60) / 1000
    shifted = [body + 60 * np.stack([np.sin(4 * (times - s)), np.cos(4 * (times - s))], -1)[:, None] for s in shifts]
    lag_s = shifts[np.argmin([np.square(smooth - m)[30:].mean() for m in shifted])]
    assert abs(lag_s) <= 0.005


def test_backward_pass_is_nearer_to_the_truth():
    rng, times = np.random.default_rng(3), np.arange(120) / 30
    moving = shape(rng) + 60 * np.stack([np.sin(4 * times), np.cos(4 * times)], -1)[:, None]
    frames = [(t, people(m + rng.normal(0, 3, m.shape), [1])) for t, m in zip(times, moving, strict=True)]
    causal, both = (
        np.stack([p.keypoints[0] for p in out]) for out in (run(frames), rts_smooth(frames, CONFIG, COCO17))
    )
    assert (both - moving)[10:-10].std() < 0.8 * (causal - moving)[10:-10].std()


def test_unmeasured_keypoint_is_held_then_fades():
    config = replace(CONFIG, hold_s=0.2, fade_s=0.4)
    body = shape(np.random.default_rng(4))
    scores = np.full(K, 0.8)
    unsure = np.where(np.arange(K) == 9, 0.05, 0.8)
    wrong = body.copy()
    wrong[9] += 150
    frames = [(i / 10, people(body[None], [1], scores)) for i in range(10)]
    frames += [(1 + i / 10, people(wrong[None], [1], unsure)) for i in range(9)]
    out = run(frames, config)
    held = [float(p.keypoint_scores[0, 9]) for p in out[10:]]
    # Last measured at 0.9 s: 0.1 and 0.2 s are held, 0.6 s is gone.
    np.testing.assert_allclose(held[:6], 0.8 * np.array([1, 1, 0.75, 0.5, 0.25, 0]), atol=1e-5)
    assert held[6:] == [0, 0, 0]
    for poses in out[10:15]:
        np.testing.assert_allclose(poses.keypoints[0, 9], body[9], atol=1)
    np.testing.assert_allclose(out[-1].keypoints[0, 9], wrong[9])  # nothing known: the raw one, with score 0


def test_without_fading_a_keypoint_is_held_for_as_many_frames_everywhere():
    config, body = replace(CONFIG, hold_s=0.2, fade_s=0.0), shape(np.random.default_rng(4))
    held = set()
    for begin in range(12):
        frames = [((begin + i) / 25, people(body[None], [1], 0.8 if i < 8 else 0.05)) for i in range(16)]
        held.add(sum(bool(poses.keypoint_scores.any()) for poses in run(frames, config)))
    assert held == {8 + 5}


def test_missing_person_fades_and_goes():
    config = replace(CONFIG, hold_s=0.2, fade_s=0.4)
    body = shape(np.random.default_rng(5))
    frames = [(i / 10, people(body[None], [3])) for i in range(10)]
    frames += [(1 + i / 10, Poses.empty(K)) for i in range(8)]
    out = run(frames, config)[10:]
    assert [len(p) for p in out] == [1] * 5 + [0] * 3
    np.testing.assert_allclose([p.bbox_scores[0] for p in out[:5]], 0.9 * np.array([1, 1, 0.75, 0.5, 0.25]), atol=1e-5)
    assert all(p.quality[0] == np.float32(0.7) for p in out[:5])


def test_a_missing_person_comes_as_far_in_one_step_as_in_many():
    rng = np.random.default_rng(8)
    body, speed = shape(rng), rng.uniform(-300, 300, (K, 2))  # limbs that part from their person
    frames = [(i / 25, people((body + speed * i / 25)[None], [3])) for i in range(20)]
    last = frames[-1][0]
    once = run([*frames, (last + 0.2, Poses.empty(K))])[-1]
    often = run(frames + [(last + i / 100, Poses.empty(K)) for i in range(1, 21)])[-1]
    assert np.abs(once.keypoints - frames[-1][1].keypoints).max() > 10
    np.testing.assert_allclose(once.keypoints, often.keypoints, atol=0.01)


def test_a_missing_person_comes_to_rest():
    """As a box does which is not seen: somebody who ran has not left the picture half a second later."""
    body, speed = shape(np.random.default_rng(9)), np.array([600.0, 0.0])
    frames = [(i / 25, people((body + speed * i / 25)[None], [3])) for i in range(20)]
    out = run(frames + [(i / 25, Poses.empty(K)) for i in range(20, 33)])
    came = out[-1].keypoints[0] - out[19].keypoints[0]
    expected = speed * motion.SLOW_DOWN_S * (1 - np.exp(-13 / 25 / motion.SLOW_DOWN_S))
    assert expected[0] < 0.7 * speed[0] * 13 / 25
    np.testing.assert_allclose(came, np.tile(expected, (K, 1)), atol=6)
    np.testing.assert_allclose(out[-1].bboxes_xyxy - out[19].bboxes_xyxy, np.tile(expected, 2)[None], atol=6)


def test_a_limb_that_flies_off_is_not_shown_at_a_missing_person():
    """As one that was last seen in two people in turn."""
    body = shape(np.random.default_rng(9))
    speed = np.zeros((K, 2))
    speed[10] = 1500, 0  # a wrist
    frames = [(i / 25, people(body[None], [3])) for i in range(10)]
    frames += [(i / 25, replace(people((body + speed * (i - 9) / 25)[None], [3]), bboxes_xyxy=frames[0][1].bboxes_xyxy))
               for i in range(10, 13)]  # fmt: skip
    out = run(frames + [(i / 25, Poses.empty(K)) for i in range(13, 18)])
    assert out[12].keypoint_scores[0, 10] > 0.5  # where it was seen it stays
    for missing in out[13:]:
        assert missing.stage.tolist() == [PoseStage.PREDICTED]
        assert missing.keypoints[0, 10, 0] > missing.bboxes_xyxy[0, 2] + 0.2 * 200
        assert missing.keypoint_scores[0, 10] == 0
        assert (np.delete(missing.keypoint_scores[0], 10) > 0.5).all()
    alone = [(at, replace(one, keypoint_scores=one.keypoint_scores * (np.arange(K) == 10))) for at, one in frames]
    alone = [(at, replace(one, raw_keypoint_scores=one.keypoint_scores)) for at, one in alone]
    assert [len(one) for one in run([*alone, (13 / 25, Poses.empty(K))])[-2:]] == [1, 0]  # nothing is left to show


def test_who_waits_for_a_turn_walks_on():
    """Tracked, but not estimated in each frame: neither new people nor those in the pose of another are left out."""
    body, speed = shape(np.random.default_rng(9)), np.array([300.0, 0.0])
    smoother = KeypointSmoother(CONFIG, COCO17)
    for i in range(30):
        both = people(np.stack([body, body]) + speed * i / 25, [1, 2])
        turn = take(both, [i // 4 % 2] if i else [0, 1])
        out = smoother.update(turn, i / 25, both.track_ids)
        assert sorted(out.track_ids.tolist()) == [1, 2]
        if i > 12:
            np.testing.assert_allclose(out.keypoints, both.keypoints, atol=3)


def test_missing_people_come_after_those_present_by_id():
    frames = walkers(13)
    frames[20] = (frames[20][0], take(frames[20][1], [1]))
    assert run(frames)[20].track_ids.tolist() == [2, 1, 3]
    assert rts_smooth(frames, CONFIG, COCO17)[20].track_ids.tolist() == [2, 1, 3]


def test_backward_pass_leaves_long_gaps_and_ends_alone():
    config = replace(CONFIG, hold_s=0.2, fade_s=0.4)
    body = shape(np.random.default_rng(6))
    there = [*range(10), *range(20, 30), *range(33, 40)]  # gaps of 1.1 s and 0.4 s at 10 fps, then an end
    frames = [(i / 10, people(body[None], [1]) if i in there else Poses.empty(K)) for i in range(45)]
    out = rts_smooth(frames, config, COCO17)
    assert [i for i, p in enumerate(out) if len(p)] == [*range(10), *range(20, 40)]
    assert [i for i, p in enumerate(out) if (p.stage == PoseStage.PREDICTED).any()] == [30, 31, 32]
    for i in (30, 31, 32):
        np.testing.assert_allclose(out[i].keypoints[0], body, atol=0.5)
        np.testing.assert_allclose(out[i].bboxes_xyxy, frames[29][1].bboxes_xyxy, atol=1e-3)


def test_backward_pass_fills_no_gap_in_part():
    config = replace(CONFIG, hold_s=0.05, fade_s=0.1)
    body = shape(np.random.default_rng(6))
    there = [*range(5), *range(16, 20), *range(23, 30)]  # gaps of 0.48 s and 0.16 s at 25 fps, then one of 0.12 s
    there.remove(26), there.remove(27)
    frames = [(i / 25, people(body[None], [1]) if i in there else Poses.empty(K)) for i in range(30)]
    filled = [i for i, p in enumerate(rts_smooth(frames, config, COCO17)) if (p.stage == PoseStage.PREDICTED).any()]
    assert filled == [26, 27]


@pytest.mark.parametrize("fps", [15, 30])
def test_what_is_not_measured_again_does_not_run_away_in_the_backward_pass(fps):
    """A wrist that swings is hidden from the height of its speed on, for longer than a state lives."""
    rng, frames = np.random.default_rng(0), []
    body = shape(rng)
    for n in range(2 * fps):
        points, scores = body.copy(), np.full(K, 0.9)
        points[9, 0] += 70 * np.sin(2 * np.pi * 1.4 * n / fps)
        scores[9] = 0.05 if 0.7 < n / fps < 1.5 else 0.9
        frames.append((n / fps, people(points + rng.normal(0, 2, points.shape), [1], scores)))
    for causal_one, both_ways, (pts_s, _) in zip(run(frames), rts_smooth(frames, CONFIG, COCO17), frames, strict=True):
        if 0.72 < pts_s < 1.5:
            np.testing.assert_allclose(both_ways.keypoints[0, 9], causal_one.keypoints[0, 9], atol=1e-3)


@pytest.mark.parametrize("fps", [2, 5, 10, 30])
def test_backward_pass_is_no_worse_at_any_rate(fps):
    """With outliers and people who are missing: states that end in one of them were extrapolated."""
    rng, frames, truth = np.random.default_rng(1), [], []
    body = shape(rng)
    for n in range(200):
        points = body + np.array([300, 60]) * n / fps
        scores = rng.uniform(0.2, 0.95, K)
        wrong = (rng.random(K) < 0.02)[:, None] * rng.normal(0, 200, (K, 2))
        truth.append(points)
        seen = people(points + rng.normal(0, 2, points.shape) / scores[:, None] + wrong, [1], scores)
        frames.append((n / fps, seen if rng.random() > 0.08 else Poses.empty(K)))

    def error_px(smoothed: list[Poses]) -> float:
        there = [n for n, (_, poses) in enumerate(frames) if len(poses)]
        return float(np.mean([np.linalg.norm(smoothed[n].keypoints[0] - truth[n], axis=-1).mean() for n in there]))

    assert error_px(rts_smooth(frames, CONFIG, COCO17)) <= 1.02 * error_px(run(frames))


@pytest.mark.filterwarnings("error")
def test_backward_pass_at_equal_times_where_a_keypoint_was_never_seen():
    scores = np.full(K, 0.8)
    scores[3] = 0.0
    one = people(shape(np.random.default_rng(0)), [1], scores)
    smoothed = rts_smooth([(0.0, one), (0.0, one), (0.1, one), (0.1, one)], CONFIG, COCO17)
    assert all(np.isfinite(poses.keypoints).all() for poses in smoothed)


def test_backward_pass_leaves_out_whom_the_forward_one_carried_on():
    frames = [(pts_s, poses if i < 25 else Poses.empty(K)) for i, (pts_s, poses) in enumerate(walkers(14))]
    forward = [(pts_s, poses) for (pts_s, _), poses in zip(frames, run(frames), strict=True)]
    assert len(forward[27][1]) == 3  # predicted
    out = rts_smooth(forward, CONFIG, COCO17)
    assert [len(p) for p in out] == [3] * 25 + [0] * (len(frames) - 25)
    assert_same(out, rts_smooth(frames, CONFIG, COCO17))


def test_one_outlier_is_left_out_and_a_jump_is_followed():
    body = shape(np.random.default_rng(7))
    other = body.copy()
    other[9] += 120
    frames = [(i / 30, people((other if i == 20 or i >= 30 else body)[None], [1])) for i in range(40)]
    out = np.stack([p.keypoints[0, 9] for p in run(frames)])
    np.testing.assert_allclose(out[20], body[9], atol=1)
    np.testing.assert_allclose(out[21:30], np.tile(body[9], (9, 1)), atol=1)
    np.testing.assert_allclose(out[30], body[9], atol=1)
    np.testing.assert_allclose(out[31:], np.tile(other[9], (9, 1)), atol=1)  # not averaged across the jump


def test_method_none_hands_on_raw_keypoints():
    frames = walkers(14)
    frames[20] = (frames[20][0], Poses.empty(K))
    for (_, before), after in zip(frames, run(frames, replace(CONFIG, method="none")), strict=True):
        assert_same([before], [after], atol=0)


def test_without_hold_and_fade_it_still_smooths_but_fills_no_gap():
    frames = walkers(15, count=1)
    frames[20] = (frames[20][0], Poses.empty(K))
    out = run(frames, replace(CONFIG, hold_s=0.0, fade_s=0.0))
    assert len(out[20]) == 0
    assert not np.allclose(out[10].keypoints, out[10].raw_keypoints, atol=0.1)


def test_what_was_hidden_is_as_sure_before_it_is_seen_again_as_after_it_was_seen() -> None:
    body, scores, hidden = shape(np.random.default_rng(3))[None], np.full((1, K), 0.9), np.full((1, K), 0.9)
    hidden[:, 9] = 0
    frames = [(i / 25, people(body, [7], hidden if 20 <= i < 26 else scores)) for i in range(40)]
    found = np.array([poses.keypoint_scores[0, 9] for poses in rts_smooth(frames, CONFIG, COCO17)[20:26]])
    np.testing.assert_allclose(found, found[::-1], atol=1e-3)
    assert found.min() > 0


def test_slow_sources_are_smoothed_and_finite():
    frames = [(float(i), p) for i, (_, p) in enumerate(walkers(16, count=2))]
    for out in (run(frames), rts_smooth(frames, CONFIG, COCO17)):
        assert all(np.isfinite(p.keypoints).all() and len(p) == 2 for p in out)
