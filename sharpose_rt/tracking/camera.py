"""Motion of the picture due to the camera: a shaking hand or a pan moves everybody at once.

It is the similarity transform on which most of the sparse optical flow (pyramidal Lucas-Kanade, 1981) of the background
agrees, as in BoT-SORT (Aharon et al. 2022). If there are only people and no picture, it is the shift on which most
people agree.
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
"""Maps points of the last frame to this one: (2, 3), px."""

SIDE_PX = 320
"""Longer side at which pictures are compared."""
POINTS, FEW = 80, 40
"""Corners to follow; if fewer than the second number are left, new ones are found."""
APART_PX = 8
AGREED_PX = 1.5
"""A point this close to where the similarity maps it agrees with it."""
LEAST_POINTS, LEAST_SHARE = 12, 0.4
"""The number of points, and the share of those followed, that must agree; otherwise the camera's motion is unknown."""
STILL_PX = 0.4
"""A picture that moves less, in px of the small one, is still. So is one that moves only once, as from noise."""
JUDGED_S = 0.03
"""Shortest time over which that motion is judged: at 60 frames per second a pan's steps are half as large as at 30, and
every other one is zero if each picture is stored twice."""
AGAIN, REPEATS = 0.5, 5
"""A picture whose mean difference from the last one is no more than the first, in grey levels, repeats it, up to the
second number of times: a film of 10 frames per second may be stored at 60. A repeated picture says nothing about the
camera."""
RESTS = 25
"""How many times a camera that moved must be still to count as still, as small steps are motion too."""
HELD, NEW = 25, 0.2
"""For how many frames a camera of unknown motion is assumed to continue its mean motion: a pan continues, a shaking
hand averages out. The second is the newest frame's share in that mean."""
LARGEST_CHANGE = 0.2
"""Of scale and rotation, from one frame to the next; more is an error."""

SURE_SCORE, SURE_COUNT = 0.3, 6
"""People are compared by keypoints with at least the first as score, of which both must have at least the second
number."""
ALIKE, FARTHEST = 0.06, 0.5
"""Largest change of a person's pose, and largest shift, from one frame to the next, in box sizes."""
AGREED_SHIFT = 0.03
"""People whose shifts differ by no more than this share of their size, or a pixel, agree."""
LEAST_PEOPLE, MOST_PEOPLE = 4, 200
"""Fewer people say nothing, and more would take too long, as each is compared with all."""
MOST, STAY = 0.5, 0.8
"""The share of those found again who must agree. If more than the second share of that number agree on no shift, there
is none."""


class CameraMotion:
    """Tracks how one source's picture moves, frame by frame."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Begin anew, for a picture that has nothing to do with the one before."""
        self._last: NDArray[np.uint8] | None = None
        self._points = np.zeros((0, 2), np.float32)
        self._usual: Camera | None = None
        self._rests_in = self._unknown = 0
        self._moved = 0  # above 0 if the last picture moved, or later ones only repeat it
        self._judge_from(-math.inf)

    def _judge_from(self, pts_s: float) -> None:
        """Judge whether the small picture moves by its motion from now on."""
        self._since_s, self._since = pts_s, np.eye(2, 3)

    def step(self, image_bgr: NDArray[np.uint8], people_xyxy: ArrayLike, pts_s: float) -> Camera | None:
        """How the picture moved since the last one, (2, 3) px; None if it was still or the motion is unknown.

        Args:
            image_bgr: (H, W, 3); H and W as in the last one, unless `forget` was called.
            people_xyxy: (N, 4) px, boxes of the people in the last picture, who move on their own.
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
        """Corners (P, 2) of the last picture that are not on people: those being followed, or new ones."""
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
    """Motion of a picture that is not available: the shift that most of its people share.

    Two people of successive frames may be the same if the keypoints of one are those of the other, shifted. The shift
    that maps most of the first frame's people onto such people of the second is the camera's, unless nearly as many do
    not move.

    Args:
        body: number of keypoints that count, those of the body; hands have many but move on their own.
    """

    def __init__(self, body: int) -> None:
        self._body = body
        self._last: Poses | None = None

    def forget(self) -> None:
        """Begin anew, for a picture that has nothing to do with the one before."""
        self._last = None

    def step(self, poses: Poses) -> Camera | None:
        """The shift since the last people, (2, 3) px; None if it is small or unknown."""
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
    """The shift, in px of the picture, of a map between small pictures, whose pixels have other centres."""
    at = (factors - 1) / 2  # centre of the small picture's first pixel
    linear, shift = similarity[:, :2], similarity[:, 2]
    return factors * shift + at - linear @ at


def moved_box(bbox_xyxy: ArrayLike, camera: Camera) -> Float32:
    """A box (4,) of the last frame in this one, mapped by its corners, px."""
    return apply_affine(np.reshape(bbox_xyxy, (2, 2)), camera).ravel().astype(np.float32)
