"""How the picture moves because the camera does: a shaking hand or a pan moves everybody at once.

Sparse optical flow (Lucas and Kanade 1981, in pyramids) of what is not people, and the similarity that most of it
agrees on, as in BoT-SORT (Aharon et al. 2022). Where there are people alone and no picture, the shift that most of them
agree on.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from sharpose_rt.geometry.affine import apply_affine, chain_affines
from sharpose_rt.geometry.boxes import longer_side
from sharpose_rt.types import Float32, Poses

Camera = NDArray[np.float64]
"""Where a point of the last frame is in this one: (2, 3), px."""

SIDE_PX = 320
"""Longer side at which pictures are compared."""
POINTS, FEW = 80, 40
"""Corners that are followed; where fewer are left of them others are looked for."""
APART_PX = 8
AGREED_PX = 1.5
"""A point that ends up so near to where the similarity has it agrees with it."""
LEAST_POINTS, LEAST_SHARE = 12, 0.4
"""So many points, and such a share of those followed, must agree: else it is not known how the camera moved."""
STILL_PX = 0.4
"""A picture that moves less, in px of the small one, is still; so is one that moves once: that comes of noise."""
JUDGED_S = 0.03
"""It is judged so far apart, by what it did meanwhile: at 60 frames a second a pan's steps are half as large as at 30,
and every other is none where each picture is stored twice."""
AGAIN, REPEATS = 0.5, 5
"""A picture that differs from the last one by no more, in grey levels on the whole, is that one again, up to so many
times: a film of 10 frames a second may be stored at 60. That it stands still says nothing of the camera."""
RESTS = 25
"""So many times it must be still until a camera that moved counts as still: what it does in small steps is motion."""
HELD, NEW = 25, 0.2
"""For so many frames a camera whose motion cannot be known goes on as it did on the whole: a pan goes on, a hand that
shakes stays where it is. The newest frame has this share in that mean."""
LARGEST_CHANGE = 0.2
"""Of size and direction, from one frame to the next; more is a mistake."""

SURE_SCORE, SURE_COUNT = 0.3, 6
"""People are compared by keypoints at least so sure, of which both have so many."""
ALIKE, FARTHEST = 0.06, 0.5
"""Nobody changes their pose more from one frame to the next, nor is shifted farther, in box sizes."""
AGREED_SHIFT = 0.03
"""People whose shifts differ by no more of their size, or by a pixel, are shifted alike."""
LEAST_PEOPLE, MOST_PEOPLE = 4, 200
"""Fewer tell nothing, and more would all be compared with all."""
MOST, STAY = 0.5, 0.8
"""Such a share of those who are found again must agree, and fewer than the second share of them may as well stay."""


class CameraMotion:
    """Follows how one source's picture moves, frame by frame."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Begin anew, for a picture that has nothing to do with the one before."""
        self._last: NDArray[np.uint8] | None = None
        self._points = np.zeros((0, 2), np.float32)
        self._usual: Camera | None = None
        self._rests_in = self._unknown = 0
        self._moved = 0  # more than 0 where the last picture moved, or those since are that one again
        self._judge_from(-math.inf)

    def _judge_from(self, pts_s: float) -> None:
        """What the small picture does from now on says whether it moves."""
        self._since_s, self._since = pts_s, np.eye(2, 3)

    def step(self, image_bgr: NDArray[np.uint8], people_xyxy: ArrayLike, pts_s: float) -> Camera | None:
        """How the picture moved since the last one, (2, 3) px; None where it stood still or cannot be known.

        Args:
            image_bgr: (H, W, 3); H and W are those of the last one, or `forget` was called.
            people_xyxy: (N, 4) px, boxes of the people in the last picture: they move by themselves.
            pts_s: media time.
        """
        height, width = image_bgr.shape[:2]
        scale = min(1.0, SIDE_PX / max(height, width))
        size_wh = max(1, round(width * scale)), max(1, round(height * scale))
        now: NDArray[np.uint8] = cv2.cvtColor(cv2.resize(image_bgr, size_wh), cv2.COLOR_BGR2GRAY)  # type: ignore[assignment]
        last, self._last = self._last, now
        if last is None:
            self._judge_from(pts_s)
            return None
        factors = np.array([width / size_wh[0], height / size_wh[1]])
        people = np.asarray(people_xyxy, np.float64).reshape(-1, 4) / np.tile(factors, 2)
        similarity = self._agreed(last, now, self._background(last, people))
        if similarity is None:
            self._points = np.zeros((0, 2), np.float32)
            self._judge_from(pts_s)
            self._unknown += 1
            self._usual = self._usual if self._unknown <= HELD else None
            return self._usual
        self._unknown = 0
        self._since = chain_affines(self._since, similarity)
        if pts_s - self._since_s >= JUDGED_S:
            corners = np.array([[0, 0], [size_wh[0], 0], [0, size_wh[1]], size_wh], np.float64)
            moves = np.linalg.norm(apply_affine(corners, self._since) - corners, axis=1).mean() >= STILL_PX
            self._rests_in = RESTS if moves and (self._moved or self._rests_in) else max(0, self._rests_in - 1)
            again = cv2.absdiff(last, now).mean() <= AGAIN
            self._moved = 1 + REPEATS if moves else max(0, self._moved - 1) if again else 0
            self._judge_from(pts_s)
        similarity[:, 2] = _in_picture(similarity, factors)
        if not self._rests_in:
            self._usual = None
            return None
        self._usual = similarity if self._usual is None else self._usual + NEW * (similarity - self._usual)
        return similarity

    def _agreed(
        self, last: NDArray[np.uint8], now: NDArray[np.uint8], points: NDArray[np.float32]
    ) -> NDArray[np.float64] | None:
        """The similarity (2, 3) from the last small picture to this one on which most points agree; keeps those."""
        if len(points) < LEAST_POINTS:
            return None
        found, followed, _ = cv2.calcOpticalFlowPyrLK(last, now, points, None, winSize=(15, 15), maxLevel=3)  # type: ignore[call-overload]
        kept = followed[:, 0] > 0
        before, after = points[kept], found[kept]
        if len(before) < LEAST_POINTS:
            return None
        best, inliers = cv2.estimateAffinePartial2D(
            before, after, ransacReprojThreshold=AGREED_PX, maxIters=200, confidence=0.99
        )
        if best is None:
            return None
        similarity, agreed = np.array(best, np.float64), inliers[:, 0] > 0
        few = agreed.sum() < max(LEAST_POINTS, LEAST_SHARE * len(before))
        if few or np.abs(similarity[:, :2] - np.eye(2)).max() > LARGEST_CHANGE:
            return None
        self._points = after[agreed]
        return similarity

    def _background(self, last: NDArray[np.uint8], people_xyxy: NDArray[np.float64]) -> NDArray[np.float32]:
        """Corners (P, 2) of the last picture that are not on people: those that were followed, or others."""
        mask = np.full(last.shape, 255, np.uint8)
        for x0, y0, x1, y1 in people_xyxy.clip(0, SIDE_PX).astype(int):
            mask[y0 : y1 + 1, x0 : x1 + 1] = 0
        h, w = last.shape
        x, y = self._points.round().astype(int).T
        inside = (x >= 0) & (y >= 0) & (x < w) & (y < h)
        points = self._points[inside]
        points = points[mask[y[inside], x[inside]] > 0]
        if len(points) >= FEW:
            return points
        corners = cv2.goodFeaturesToTrack(last, POINTS, 0.01, APART_PX, mask=mask)
        return np.zeros((0, 2), np.float32) if corners is None else corners[:, 0].astype(np.float32)


class PeopleMotion:
    """How the picture moves where there is none to see: the shift that most of its people make at once.

    Two people of successive frames may be the same where the keypoints of one are those of the other, shifted. The
    shift with which most of the first frame's people have such a one in the second is the camera's, unless as good as
    many stay where they are.

    Args:
        body: so many keypoints count, those of a body: hands, of which each has as many, go their own ways.
    """

    def __init__(self, body: int) -> None:
        self._body = body
        self._last: Poses | None = None

    def forget(self) -> None:
        """Begin anew, for a picture that has nothing to do with the one before."""
        self._last = None

    def step(self, poses: Poses) -> Camera | None:
        """The shift since the last people, (2, 3) px; None where it is small, or cannot be known."""
        poses = poses.first(self._body)
        last, self._last = self._last, poses
        if last is None or not all(LEAST_PEOPLE <= len(people) <= MOST_PEOPLE for people in (last, poses)):
            return None
        sure = [people.raw_keypoint_scores >= SURE_SCORE for people in (last, poses)]
        both = (sure[0][:, None] & sure[1])[..., None]
        count = both.sum(2)
        apart = poses.raw_keypoints[None].astype(np.float64) - last.raw_keypoints[:, None]
        shift = np.where(both, apart, 0).sum(2) / np.maximum(count, 1)
        spread = np.where(both, apart - shift[:, :, None], 0)
        size_px = longer_side(last.bboxes_xyxy)[:, None]
        alike = (spread**2).sum((2, 3)) <= count[..., 0] * (ALIKE * size_px) ** 2
        alike &= (count[..., 0] >= SURE_COUNT) & (np.linalg.norm(shift, axis=2) <= FARTHEST * size_px)
        reach_px = np.maximum(AGREED_SHIFT * size_px, 1.0)

        def agrees(with_px: NDArray[np.float64]) -> NDArray[np.bool_]:
            return alike & (np.linalg.norm(shift - with_px, axis=2) <= reach_px)

        votes = [agrees(one).any(1).sum() for one in shift[alike]]
        most = max(votes, default=0)
        if most < max(LEAST_PEOPLE, MOST * alike.any(1).sum()):
            return None
        if agrees(np.zeros(2)).any(1).sum() > STAY * most:
            return None
        own = np.median(shift[agrees(shift[alike][int(np.argmax(votes))])], axis=0)
        return np.array([[1, 0, own[0]], [0, 1, own[1]]])


def _in_picture(similarity: NDArray[np.float64], factors: NDArray[np.float64]) -> NDArray[np.float64]:
    """The shift in px of the picture of a map between small ones, whose pixels have their centres elsewhere."""
    at = (factors - 1) / 2  # where the small picture's first pixel has its centre
    linear, shift = similarity[:, :2], similarity[:, 2]
    return factors * shift + at - linear @ at


def moved_box(bbox_xyxy: ArrayLike, camera: Camera) -> Float32:
    """Where a box (4,) of the last frame is in this one, by its corners, px."""
    return apply_affine(np.reshape(bbox_xyxy, (2, 2)), camera).ravel().astype(np.float32)
