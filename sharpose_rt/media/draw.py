"""Draws poses on pictures: limbs coloured by side; boxes, labels and trails by track; a status line."""

from __future__ import annotations

import colorsys
from collections import deque
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import chain, compress

import cv2
import numpy as np
from numpy.typing import NDArray

from sharpose_rt.config.schema import DrawConfig
from sharpose_rt.geometry.affine import apply_affine
from sharpose_rt.geometry.angles import angle_names, joint_angles
from sharpose_rt.media.faces import hide_faces
from sharpose_rt.skeleton import Skeleton
from sharpose_rt.types import Detections, Packet, Poses, PoseStage

Colour = tuple[int, int, int]
Image = NDArray[np.uint8]

# BGR. Orange and blue are distinguishable with every kind of colour blindness.
SIDE_COLOURS: dict[str, Colour] = {"left": (255, 170, 40), "right": (30, 140, 255), "centre": (225, 235, 225)}
_OUTLINE: Colour = (25, 25, 25)
_PALE: Colour = (190, 190, 190)
_BRIGHT: Colour = (245, 245, 245)
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_SHIFT = 4  # OpenCV draws with a precision of 1/16 px
_DASHES = 4
_MOST_STEPS = 120  # of a trail, whatever its duration: one second at 120 fps


class Painter:
    """Draws the people of one source, frame by frame.

    Limbs are coloured by the person's own left and right; boxes, labels and trails by track id. Beside the id, a filled
    dot marks 'fine' and a ring 'coarse'; 'predicted' people are paler and dashed.

    Args:
        skeleton: of the people.
        config: what to draw.
        region: corners, px, of the polygon in which people are detected, which is outlined.
    """

    def __init__(
        self, skeleton: Skeleton, config: DrawConfig | None = None, region: Sequence[tuple[float, float]] = ()
    ) -> None:
        self.config, self._skeleton = config or DrawConfig(), skeleton
        self._region = _fixed(np.array(region, np.float64).reshape(1, -1, 2))
        sides = [skeleton.side(index) for index in range(len(skeleton))]
        limbs: dict[str, list[tuple[int, int]]] = {side: [] for side in SIDE_COLOURS}
        small: dict[str, list[tuple[int, int]]] = {side: [] for side in SIDE_COLOURS}
        for a, b in skeleton.limbs:
            # A limb from the middle outwards belongs to its side, one between both sides to neither.
            pair = {sides[a], sides[b]} - {"centre"}
            lines = small if min(a, b) >= skeleton.body else limbs
            lines[pair.pop() if len(pair) == 1 else "centre"].append((a, b))
        self._limbs = {side: np.array(pairs) for side, pairs in limbs.items() if pairs}
        self._small = {side: np.array(pairs) for side, pairs in small.items() if pairs}  # face and hands
        self._sides = sides[: skeleton.body]
        parts = ("shoulder", "hip", "thorax", "pelvis")
        self._torso = np.array([k for k, name in enumerate(skeleton.keypoints) if name.split("_")[-1] in parts], int)
        joints = [name for name in angle_names(skeleton) if name in skeleton.keypoints]
        places = [skeleton.keypoints.index(name) for name in joints]
        self._bending = places, [-1 if sides[place] == "right" else 1 for place in places]
        self._trails: dict[int, deque[tuple[float, float, float]]] = {}
        self._last_s = 0.0

    def drawn(self, packet: Packet, status: str = "") -> Image:
        """A copy of the packet's picture with its people and the status line; see `draw`."""
        frame, poses = packet.frame, packet.poses
        assert poses is not None
        image = frame.image_bgr.copy()
        camera, detections = packet.camera, packet.detections
        return self.draw(image, poses, frame.pts_s, status, camera, new_scene=packet.new_scene, detections=detections)

    def draw(
        self,
        image_bgr: Image,
        poses: Poses,
        pts_s: float,
        status: str = "",
        camera: NDArray[np.float64] | None = None,
        *,
        new_scene: bool = False,
        detections: Detections | None = None,
    ) -> Image:
        """The picture with the people and the status line drawn on it.

        Draws in place, so `image_bgr`, (H, W, 3) uint8, must be the caller's own copy. Trails stay where people went
        even if the `camera` moves (see `Packet`), and end at a new scene. If faces are hidden, so are those of
        `detections` without a pose yet.
        """
        if new_scene:
            self._trails.clear()
        config = self.config
        if not config.picture:
            image_bgr[:] = 0
        elif not config.faces:
            hide_faces(image_bgr, poses, self._skeleton, detections)
        unit = max(1.0, (image_bgr.shape[0] * image_bgr.shape[1]) ** 0.5 / 720)
        self._follow(poses, pts_s, camera)
        if self._region.size:
            for colour, width in ((_OUTLINE, 3 * unit), (_PALE, unit)):
                cv2.polylines(image_bgr, [self._region], True, colour, max(1, round(width)), cv2.LINE_AA, _SHIFT)
        if config.trail_s > 0:
            self._draw_trails(image_bgr, poses.track_ids, pts_s, unit)
        boxes = poses.bboxes_xyxy
        # Draw the largest person, who is probably nearest, last.
        order = np.argsort(np.prod(boxes[:, 2:] - boxes[:, :2], axis=1), kind="stable").tolist()
        seen = (poses.keypoint_scores >= config.min_score) & np.isfinite(poses.keypoints).all(axis=2)
        fixed = _fixed(np.where(seen[..., None], poses.keypoints, 0))
        for index in order:
            faded = bool(poses.stage[index] == PoseStage.PREDICTED)
            if config.boxes:
                colour = _faded(track_colour(int(poses.track_ids[index])), faded)
                _draw_box(image_bgr, boxes[index], colour, unit, faded)
            self._draw_skeleton(image_bgr, fixed[index], seen[index], _line_width(boxes[index], unit), faded)
        if config.angles:
            scores = np.where(seen, poses.keypoint_scores, 0)
            turned = joint_angles(poses.keypoints, scores, self._skeleton)
            for index in order:
                self._draw_angles(image_bgr, poses.keypoints[index], turned[index, : len(self._bending[0])], unit)
        if config.ids:
            for index in order:
                if poses.track_ids[index] > 0:
                    _draw_label(image_bgr, poses, index, unit)
        if config.status and status:
            _draw_status(image_bgr, status, unit)
        return image_bgr

    def _draw_skeleton(
        self, image: Image, fixed: NDArray[np.int32], seen: NDArray[np.bool_], width: int, faded: bool
    ) -> None:
        lines = {}
        for side, pairs in self._limbs.items():
            shown = fixed[pairs[seen[pairs].all(axis=1)]]
            lines[side] = list(_dashed(shown) if faded else shown)
        outlined = width > 1  # around thinner lines only the outline would be visible
        if outlined:
            _lines(image, [*chain.from_iterable(lines.values())], _OUTLINE, width + 2, cv2.LINE_8)
        for side, segments in lines.items():
            _lines(image, segments, _faded(SIDE_COLOURS[side], faded), width)
        for side, pairs in self._small.items():
            shown = list(fixed[pairs[seen[pairs].all(axis=1)]])
            _lines(image, shown, _faded(SIDE_COLOURS[side], faded), max(1, width // 2))
        radius, body = width << _SHIFT, seen[: len(self._sides)]
        for point, side in zip(fixed[: len(body)][body].tolist(), compress(self._sides, body), strict=True):
            if outlined:
                cv2.circle(image, point, radius + (1 << _SHIFT), _OUTLINE, cv2.FILLED, cv2.LINE_AA, _SHIFT)
            cv2.circle(image, point, radius, _faded(SIDE_COLOURS[side], faded), cv2.FILLED, cv2.LINE_AA, _SHIFT)

    def _draw_angles(self, image: Image, points: NDArray[np.float32], angles: NDArray[np.float64], unit: float) -> None:
        """Draws degrees beside the joints, on the outer side if the person faces the camera."""
        scale, thick = 0.36 * unit, max(1, round(0.8 * unit))
        for joint, outward, angle in zip(*self._bending, angles.tolist(), strict=True):
            if angle != angle:
                continue
            text = str(round(angle))
            (width, height), _ = _text_size(text, scale)
            x, y = (round(float(v)) for v in np.clip(points[joint], -2e4, 2e4))
            at = (x + round(6 * unit) if outward > 0 else x - width - round(6 * unit), y + height // 2)
            cv2.putText(image, text, at, _FONT, scale, _OUTLINE, thick + 2, cv2.LINE_AA)
            cv2.putText(image, text, at, _FONT, scale, _BRIGHT, thick, cv2.LINE_AA)

    def _follow(self, poses: Poses, pts_s: float, camera: NDArray[np.float64] | None) -> None:
        """Adds this frame's body centres to the trails; removes old points and ended tracks."""
        if pts_s < self._last_s:
            self._trails.clear()
        self._last_s = pts_s
        if self.config.trail_s <= 0:
            return
        if camera is not None:
            for trail in self._trails.values():
                rows = np.array(trail)
                rows[:, 1:] = apply_affine(rows[:, 1:], camera)
                trail.clear()
                trail.extend((t, x, y) for t, x, y in rows.tolist())
        for index, track_id in enumerate(poses.track_ids.tolist()):
            torso = self._torso[poses.keypoint_scores[index, self._torso] >= self.config.min_score]
            if track_id > 0 and 2 * len(torso) > len(self._torso):
                x, y = poses.keypoints[index, torso].mean(axis=0).tolist()
                if np.isfinite(x + y):
                    trail = self._trails.setdefault(track_id, deque())
                    if len(trail) > 1 and trail[-1][0] - trail[-2][0] < self.config.trail_s / _MOST_STEPS:
                        trail.pop()
                    trail.append((pts_s, x, y))
        for track_id, trail in list(self._trails.items()):
            while trail and trail[0][0] < pts_s - self.config.trail_s:
                trail.popleft()
            if not trail:
                del self._trails[track_id]

    def _draw_trails(self, image: Image, track_ids: Iterable[int], pts_s: float, unit: float) -> None:
        for track_id in track_ids:
            trail = self._trails.get(int(track_id), ())
            if len(trail) < 2:
                continue
            rows = np.array(trail)
            points = _fixed(rows[:, 1:])
            age = (pts_s - rows[1:, 0]) / self.config.trail_s
            segments = np.stack((points[:-1], points[1:]), axis=1)
            colour = track_colour(int(track_id))
            for youngest, oldest, width in ((2 / 3, 2.0, 0.6), (1 / 3, 2 / 3, 1.2), (-1.0, 1 / 3, 2.0)):
                part = segments[(age > youngest) & (age <= oldest)]
                if len(part):
                    _lines(image, list(part), colour, max(1, round(width * unit)))


@lru_cache(maxsize=4096)
def track_colour(track_id: int) -> Colour:
    """The BGR colour of a track: the same in every run, and clearly different from those of adjacent ids."""
    if track_id <= 0:
        return _PALE
    hue = track_id * 0.618033988749895 % 1.0  # the golden ratio spreads any number of hues evenly
    red, green, blue = colorsys.hsv_to_rgb(hue, (0.55, 0.75)[track_id % 2], 1.0)
    return round(blue * 255), round(green * 255), round(red * 255)


def _faded(colour: Colour, faded: bool) -> Colour:
    if not faded:
        return colour
    return tuple((c + 2 * p) // 3 for c, p in zip(colour, _PALE, strict=True))  # type: ignore[return-value]


def _dashed(segments: NDArray[np.int32]) -> NDArray[np.int32]:
    """Every other piece of each segment: (M, 2, 2) to (4 M, 2, 2)."""
    at = np.arange(_DASHES) * 2 / (2 * _DASHES - 1)
    along = (segments[:, 1] - segments[:, 0])[:, None]
    begin = segments[:, :1] + along * at[None, :, None]
    end = begin + along / (2 * _DASHES - 1)
    return np.round(np.stack((begin, end), axis=2)).astype(np.int32).reshape(-1, 2, 2)


def _fixed(points: NDArray[np.floating]) -> NDArray[np.int32]:
    """Points in 1/16 px; those far outside are moved closer, as OpenCV's coordinates would overflow."""
    return np.rint(np.clip(points, -2e4, 2e4) * (1 << _SHIFT)).astype(np.int32)


def _line_width(box: NDArray[np.float32], unit: float) -> int:
    """Width of a limb, px, which grows with the picture and with the square root of the person's size."""
    size_px = float(np.nan_to_num(np.max(box[2:] - box[:2])))
    return max(1, round(1.6 * unit * min(max(size_px / 300, 0.5), 2.2) ** 0.5))


def _lines(
    image: Image, segments: list[NDArray[np.int32]], colour: Colour, width: int, kind: int = cv2.LINE_AA
) -> None:
    if segments:
        cv2.polylines(image, segments, False, colour, width, kind, _SHIFT)


def _draw_box(image: Image, box: NDArray[np.float32], colour: Colour, unit: float, dashed: bool) -> None:
    if not np.isfinite(box).all():
        return
    left, top, right, bottom = (round(float(v)) for v in np.clip(box, -2e4, 2e4))
    width = max(1, round(0.7 * unit))
    if not dashed:
        cv2.rectangle(image, (left, top), (right, bottom), colour, width)
        return
    corners = np.array(((left, top), (right, top), (right, bottom), (left, bottom)), np.int32) << _SHIFT
    _lines(image, list(_dashed(np.stack((corners, np.roll(corners, -1, axis=0)), axis=1))), colour, width)


def _draw_label(image: Image, poses: Poses, index: int, unit: float) -> None:
    """Draws the id and the mark of the stage on a plate in the track's colour, at the upper left corner of the box."""
    box = poses.bboxes_xyxy[index]
    if not np.isfinite(box).all():
        return
    track_id, stage = int(poses.track_ids[index]), int(poses.stage[index])
    colour = _faded(track_colour(track_id), stage == PoseStage.PREDICTED)
    text, scale = str(track_id), 0.4 * unit
    (text_width, text_height), _ = _text_size(text, scale)
    pad = round(2.5 * unit)
    mark = round(text_height * 0.3)
    width, height = text_width + 3 * pad + 2 * mark, text_height + 2 * pad
    left = int(np.clip(box[0], 0, max(0, image.shape[1] - width)))
    top = int(np.clip(box[1] - height, 0, max(0, image.shape[0] - height)))
    cv2.rectangle(image, (left, top), (left + width, top + height), colour, cv2.FILLED)
    middle = (left + pad + mark, top + height // 2)
    if stage == PoseStage.FINE:
        cv2.circle(image, middle, mark, _OUTLINE, cv2.FILLED, cv2.LINE_AA)
    elif stage == PoseStage.COARSE:
        cv2.circle(image, middle, mark, _OUTLINE, max(1, round(0.7 * unit)), cv2.LINE_AA)
    else:
        for slope in (1, -1):  # a cross; a dash before the id would look like a minus
            one, other = ((middle[0] + way * mark, middle[1] + way * slope * mark) for way in (-1, 1))
            cv2.line(image, one, other, _OUTLINE, max(1, round(0.7 * unit)), cv2.LINE_AA)
    at = (left + 2 * pad + 2 * mark, top + pad + text_height)
    cv2.putText(image, text, at, _FONT, scale, _OUTLINE, max(1, round(0.9 * unit)), cv2.LINE_AA)


def _draw_status(image: Image, status: str, unit: float) -> None:
    """Draws one line at the upper left on a darkened strip, smaller on narrow pictures."""
    scale = 0.5 * unit
    pad = round(6 * unit)
    (width, height), base = _text_size(status, scale)
    if width + 4 * pad > image.shape[1]:
        scale *= max(0.3, (image.shape[1] - 4 * pad) / width)
        (width, height), base = _text_size(status, scale)
    strip = image[pad : 3 * pad + height + base, pad : 3 * pad + width]
    if not strip.size:  # a picture of a few pixels
        return
    strip[:] = cv2.convertScaleAbs(strip, alpha=0.35)
    at = (2 * pad, 2 * pad + height)
    cv2.putText(image, status, at, _FONT, scale, _BRIGHT, max(1, round(unit)), cv2.LINE_AA)


@lru_cache(maxsize=1024)
def _text_size(text: str, scale: float) -> tuple[tuple[int, int], int]:
    size, base = cv2.getTextSize(text, _FONT, scale, max(1, round(scale * 2.2)))
    return (int(size[0]), int(size[1])), int(base)


def draw_pose(
    crop_bgr: NDArray[np.uint8], keypoints: NDArray[np.float32], scores: NDArray[np.float32], skeleton: Skeleton
) -> NDArray[np.uint8]:
    """A copy of the crop with limbs between keypoints with scores above 0.2, coloured by side."""
    image = crop_bgr.copy()
    places = [tuple(int(v) for v in point) for point in np.round(keypoints).clip(-9999, 9999)]
    for a, b in skeleton.limbs:
        if min(scores[a], scores[b]) > 0.2:
            cv2.line(image, places[a], places[b], SIDE_COLOURS[skeleton.side(b)], 1, cv2.LINE_AA)
    for index, place in enumerate(places):
        if scores[index] > 0.2:
            cv2.circle(image, place, 2, SIDE_COLOURS[skeleton.side(index)], -1, cv2.LINE_AA)
    return image


def sheet(tiles: Sequence[Image], columns: int) -> Image:
    """One or more pictures of equal size in rows of `columns`; the last row is filled with black."""
    tiles = [*tiles, *[np.zeros_like(tiles[0])] * (-len(tiles) % columns)]
    return np.concatenate([np.concatenate(tiles[i : i + columns], 1) for i in range(0, len(tiles), columns)], 0)
