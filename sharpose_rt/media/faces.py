"""Hides faces, so that a picture can be shown without revealing who is in it."""

from __future__ import annotations

import math
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from sharpose_rt.geometry.boxes import iou_matrix
from sharpose_rt.skeleton import TRUNK, Skeleton
from sharpose_rt.types import Detections, Poses

_SAME_IOU = 0.5
_BLOCKS = 6
"""Across a head: too few to recognise anybody."""
_BLOCKS_OF_BOX = 4
"""Across the shorter side of a box's upper half, which may contain only head and shoulders."""
_FACE = ("nose", "left_eye", "right_eye", "left_ear", "right_ear")
_TOP, _NECK = ("head", "head_top"), ("neck", "upper_neck")
"""Between these is the face, if none of its own keypoints was found."""


def hide_faces(
    image_bgr: NDArray[np.uint8], poses: Poses, skeleton: Skeleton, detections: Detections | None = None
) -> None:
    """Turns everybody's head in the picture, (H, W, 3) uint8, into a few blocks, in place.

    A head is located by its keypoints, smoothed and raw, else by the trunk. If neither was found, or if a person was
    detected but has no pose, as in their first frame, the upper half of the box is hidden, rather too much than too
    little. People who were not detected are not hidden.
    """
    circles = head_circles(poses, skeleton)
    for x, y, radius in circles.tolist():
        _hide(image_bgr, x, y, radius, radius)
    boxes = poses.bboxes_xyxy[np.isnan(circles[:, 0])]
    if detections is not None and len(detections):
        posed = iou_matrix(detections.bboxes_xyxy, poses.bboxes_xyxy).max(1, initial=0) >= _SAME_IOU
        boxes = np.concatenate([boxes, detections.bboxes_xyxy[~posed]])
    for left, top, right, bottom in boxes.astype(float).tolist():
        height = bottom - top
        _hide(image_bgr, (left + right) / 2, top + height / 4, (right - left) / 2, height / 4, of_box=True)


def head_circles(poses: Poses, skeleton: Skeleton) -> NDArray[np.float64]:
    """Centre and radius (N, 3) px of circles that cover the heads; NaN if neither head nor trunk was found."""
    circles = np.full((len(poses), 3), np.nan)
    face, top, neck, trunk = _places(skeleton)
    for i in range(len(poses)):
        seen = [
            np.where((scores[i] > 0)[:, None] & np.isfinite(points[i]), points[i], np.nan)
            for points, scores in (
                (poses.keypoints, poses.keypoint_scores),
                (poses.raw_keypoints, poses.raw_keypoint_scores),
            )
        ]
        x1, y1, x2, y2 = poses.bboxes_xyxy[i].astype(float)
        circles[i] = _circle(
            *(_found(np.concatenate([one[places] for one in seen])) for places in (face, top, neck)),
            trunks=[one[trunk] for one in seen],
            box_px=max(x2 - x1, y2 - y1),
        )
    return circles


def _found(points: NDArray[np.floating]) -> NDArray[np.floating]:
    """The points (n, 2) without NaN."""
    return points[np.isfinite(points).all(1)]


def _circle(
    face: NDArray[np.floating],
    top: NDArray[np.floating],
    neck: NDArray[np.floating],
    trunks: list[NDArray[np.floating]],
    box_px: float,
) -> tuple[float, ...]:
    shoulders_px, up = 0.0, np.zeros(2)
    base = np.full(2, np.nan)
    for trunk in trunks:
        if len(trunk) < 4:
            continue
        width = float(np.nan_to_num(np.linalg.norm(trunk[0] - trunk[1])))
        shoulder, hip = trunk[:2].mean(0), trunk[2:].mean(0)
        spine = np.nan_to_num(shoulder - hip)
        if np.isfinite(shoulder).all():
            base = shoulder
        if np.linalg.norm(spine) > np.linalg.norm(up):
            up = spine
        # Seen from the side the shoulders coincide, and from above the whole trunk does.
        shoulders_px = max(shoulders_px, width, 0.7 * float(np.linalg.norm(spine)))
    head = np.concatenate([face, top])
    if len(top) and not len(face):  # the face is below the top, and ends at the neck, else at the shoulders
        below = neck if len(neck) else _found(base[None])
        if not len(below):
            return math.nan, math.nan, math.nan
        head = np.concatenate([top, below])
    if len(head):
        low, high = head.min(0), head.max(0)
        x, y = (low + high) / 2
        return x, y, max(0.9 * math.dist(low, high), 0.5 * shoulders_px, 0.05 * box_px)
    if np.isfinite(base).all() and shoulders_px > 0:
        length = float(np.linalg.norm(up))
        x, y = base + (up / length if length else np.array([0.0, -1.0])) * 0.45 * shoulders_px
        return x, y, 0.6 * shoulders_px
    return math.nan, math.nan, math.nan


@lru_cache
def _places(skeleton: Skeleton) -> tuple[list[int], list[int], list[int], list[int]]:
    """Indices of the keypoints of the face, the top of the head, the neck, and the trunk's corners (all or none)."""
    at = {name: place for place, name in enumerate(skeleton.keypoints)}
    face = [place for name, place in at.items() if name in _FACE or name.startswith("face_")]
    top, neck = ([at[name] for name in names if name in at] for names in (_TOP, _NECK))
    return face, top, neck, [at[name] for name in TRUNK] if set(TRUNK) <= at.keys() else []


def _hide(
    image: NDArray[np.uint8], x: float, y: float, half_width: float, half_height: float, *, of_box: bool = False
) -> None:
    """Pixelates an ellipse around (x, y), or with `of_box` the whole rectangle."""
    if not (math.isfinite(x + y + half_width + half_height) and half_width > 0 and half_height > 0):
        return
    height, width = image.shape[:2]
    half_width, half_height = (min(half, 2.0 * max(height, width)) for half in (half_width, half_height))
    left, top = max(0, math.floor(x - half_width)), max(0, math.floor(y - half_height))
    right, bottom = min(width, math.ceil(x + half_width) + 1), min(height, math.ceil(y + half_height) + 1)
    if right <= left or bottom <= top:
        return
    part = image[top:bottom, left:right]
    block_px = max(1.0, 2 * min(half_width, half_height) / (_BLOCKS_OF_BOX if of_box else _BLOCKS))
    few_wh = (max(1, round((right - left) / block_px)), max(1, round((bottom - top) / block_px)))
    few = cv2.resize(part, few_wh, interpolation=cv2.INTER_AREA)
    blocks = cv2.resize(few, (right - left, bottom - top), interpolation=cv2.INTER_NEAREST)
    if of_box:
        part[:] = blocks
        return
    rows, columns = np.ogrid[top:bottom, left:right]
    inside = ((columns - x) / half_width) ** 2 + ((rows - y) / half_height) ** 2 <= 1
    part[inside] = blocks[inside]
