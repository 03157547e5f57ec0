"""Every option of a run with its default, unit and range. Defaults are defined only here.

A component receives its own section, never the whole tree. Values are checked when a section is built, so a bad value
fails before anything is opened.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from sharpose_rt.config.checks import GAIN_RANGE, MOST_SLOTS, PADDING_RANGE, PIXEL_FORMS, Unset, is_boxes_file
from sharpose_rt.config.checks import device as _device
from sharpose_rt.config.checks import one_of as _one_of
from sharpose_rt.config.checks import within as _within
from sharpose_rt.errors import ConfigError

HWACCELS = ("cuda", "videotoolbox", "d3d11va", "vaapi", "qsv")
"""FFmpeg's names of hardware video decoders; 'cuda' is NVIDIA's NVDEC."""


@dataclass(frozen=True)
class SourceConfig:
    """Which part of a source is read, and how long to wait for it."""

    start_s: float = 0.0
    """Media time of the first frame, in seconds from the start of the source."""
    end_s: float | None = None
    """Media time at which reading ends (exclusive); None reads to the end."""
    stride: int = 1
    """Every stride-th frame is used."""
    max_frames: int | None = None
    """Stop after this many frames."""
    image_fps: float = 1.0
    """Frames per second assumed for a folder of images."""
    filmed_fps: float | None = None
    """Frames per second at which slow motion was filmed, if it is stored at another rate: all times, including
    `start_s` and `end_s`, are then those of the scene. None: as stored."""
    camera_size_wh: tuple[int, int] | None = None
    """Requested from a camera; if it delivers another size, that is used."""
    camera_fps: float | None = None
    """Requested from a camera; for a screen, captures per second (None: 30)."""
    camera_format: str = "mjpeg"
    """Requested from a camera: 'mjpeg' (large and fast) or 'yuyv' (lossless, but slow above 640x480)."""
    realtime: bool = False
    """A file plays at its own pace like a camera, and frames that come too late are dropped."""
    open_timeout_s: float = 10.0
    """A camera or URL that does not answer within this time is an error."""
    read_timeout_s: float = 10.0
    """A live source that sends no frame for this long is lost."""
    reconnect_s: float = 300.0
    """How long a lost live source is retried; 0: not at all, inf: for ever."""
    rtsp_transport: str = "tcp"
    """'tcp' or 'udp'."""
    tls: str = "verify"
    """Certificates trusted for https, rtsps, rtmps, wss and mqtts: 'verify' (those of the host that the system trusts),
    a file of PEM certificates (those of the host that are in it, or signed by one of them), or 'any'."""
    rotate: int = 0
    """Turns each picture clockwise by 0, 90, 180 or 270 degrees, for a camera mounted on its side. All coordinates,
    including those of a region and of given boxes, refer to the turned picture."""
    hwaccel: str = "none"
    """Hardware decoding: 'none' (the CPU), 'auto' (the first of `HWACCELS` that works here), or one of these."""
    max_bad_frames: int = 30
    """Consecutive undecodable frames that are skipped before it is an error."""

    def __post_init__(self) -> None:
        _within("source.start_s", self.start_s, 0, 1e9)  # the range that containers accept
        _within("source.end_s", self.end_s, self.start_s, above=True)
        _within("source.stride", self.stride, 1)
        _within("source.max_frames", self.max_frames, 1)
        _within("source.image_fps", self.image_fps, 0, 1000, above=True)
        _within("source.filmed_fps", self.filmed_fps, 0, 1e6, above=True)
        _within("source.camera_fps", self.camera_fps, 0, 1000, above=True)
        if self.camera_size_wh is not None:
            object.__setattr__(self, "camera_size_wh", tuple(self.camera_size_wh))
            if len(self.camera_size_wh) != 2 or min(self.camera_size_wh) < 1:
                raise ConfigError(f"source.camera_size_wh is {self.camera_size_wh}; [width, height] is accepted")
        _one_of("source.camera_format", self.camera_format, ("mjpeg", "yuyv"))
        _within("source.reconnect_s", self.reconnect_s, 0)
        _within("source.open_timeout_s", self.open_timeout_s, 0, above=True)
        _within("source.read_timeout_s", self.read_timeout_s, 0, above=True)
        _one_of("source.rtsp_transport", self.rtsp_transport, ("tcp", "udp"))
        if not self.tls:
            raise ConfigError("source.tls is empty; 'verify', 'any' or a file of certificates is accepted")
        if self.rotate not in (0, 90, 180, 270):
            raise ConfigError(f"source.rotate is {self.rotate}; 0, 90, 180 or 270 degrees clockwise is accepted")
        _one_of("source.hwaccel", self.hwaccel, ("none", "auto", *HWACCELS))
        _within("source.max_bad_frames", self.max_bad_frames, 0)


def _corners(region: Any) -> tuple[tuple[float, float], ...]:
    """The corners as floats; raises ConfigError if they span no area."""
    try:
        corners = tuple((float(x), float(y)) for x, y in region)
    except (TypeError, ValueError):
        corners = ((math.nan, math.nan),)
    if not corners:
        return corners
    spans = [max(axis) - min(axis) for axis in zip(*corners, strict=True)]
    (x0, y0), *others = corners
    on_a_line = all((x - x0) * (v - y0) == (u - x0) * (y - y0) for (x, y), (u, v) in pairwise(others))
    flat = not all(0 < span < math.inf for span in spans) or (len(corners) > 2 and on_a_line)
    if len(corners) < 2 or flat:
        raise ConfigError(
            f"detector.region is {region!r}; two opposite corners of a rectangle, [[x, y], [x, y]] in px, or three or "
            "more corners of a polygon are accepted"
        )
    return corners


@dataclass(frozen=True)
class DetectorConfig:
    """How people are found."""

    name: str = "auto"
    """'auto', 'bundled', an ultralytics model by name or path, another project's network in a file (.onnx, .xml),
    'full' (the frame is one person), or a file of boxes."""
    score_threshold: float = Unset(0.25)
    """Boxes below this score are ignored, 0..1; 0 for a file of boxes unless set. A box between this and
    `tracker.high_score` only continues an existing track. `--min-person-score` sets both."""
    iou_threshold: float = 0.6
    """Overlap above which the weaker of two boxes is dropped, if the model needs this step. The stronger one becomes
    the mean of those that agree, and boxes that overlap a stronger one get a lower score. 1 keeps all as they are."""
    image_size: int | None = None
    """Longer side of the network's input, px; None is its usual size (bundled 320, 512 while it sees small people, in
    files also 1024 while many are small; others 640). Larger finds smaller people; the time grows with its square."""
    every: int = 1
    """The detector runs on every n-th frame; the last pose carries the boxes in between."""
    every_if_sure: int = 0
    """While the poses of all people are certain, it runs on every n-th frame instead; 0 turns this off. New people then
    appear up to n frames late. While it misses somebody, it runs on each frame until their track ends."""
    max_people: int = 100
    """At most this many boxes are kept, by score."""
    pixels: str = "auto"
    """Pixel format of another project's network in a file: 'rgb_imagenet', 'bgr_imagenet' (normalised by ImageNet's
    mean and deviation), 'rgb_unit', 'bgr_unit' (0 to 1), 'rgb' or 'bgr' (0 to 255). 'auto' uses the one that finds the
    people in two photographs best."""
    person_class: int | None = None
    """Which of its classes is people, from 0; None is determined in the same way."""
    region: tuple[tuple[float, float], ...] = ()
    """Where to look for people, [x, y] px each: two opposite corners of a rectangle, or the corners of a polygon.
    People are found if the centre of their box is inside. The detector only sees this part of the picture, with a
    margin, so small people appear larger to it; if somebody extends beyond it, it looks again with a larger margin. For
    `full` it is the box of the one person."""

    def __post_init__(self) -> None:
        if isinstance(self.score_threshold, Unset):  # given boxes have been selected already
            score = Unset(0 if is_boxes_file(self.name) else DetectorConfig.score_threshold)
            object.__setattr__(self, "score_threshold", score)
        _within("detector.score_threshold", self.score_threshold, 0, 1)
        _within("detector.iou_threshold", self.iou_threshold, 0, 1)
        _within("detector.image_size", self.image_size, 32, 8192)
        _within("detector.every", self.every, 1)
        _within("detector.every_if_sure", self.every_if_sure, 0)
        _within("detector.max_people", self.max_people, 1)
        _one_of("detector.pixels", self.pixels, ("auto", *PIXEL_FORMS))
        _within("detector.person_class", self.person_class, 0, 9_999)
        object.__setattr__(self, "region", _corners(self.region))
        if not self.name:
            raise ConfigError("detector.name is empty; 'auto' is accepted, or a model's name or path")

    @property
    def polygon(self) -> tuple[tuple[float, float], ...]:
        """All corners of the region, also for a rectangle; none for the whole picture."""
        if len(self.region) != 2:
            return self.region
        (left, top), (right, bottom) = self.region
        return ((left, top), (right, top), (right, bottom), (left, bottom))


@dataclass(frozen=True)
class TrackerConfig:
    """How boxes become people with identities."""

    name: str = "sharpose"
    """'sharpose' (boxes and poses, in media time) or 'bytetrack' (the `trackers` package, boxes alone)."""
    high_score: float = Unset(0.5)
    """Boxes with at least this score are matched first and may start a track, 0..1; 0 for a file of boxes unless set.
    Weaker ones, down to `detector.score_threshold`, start none. `--min-person-score` sets both."""
    match_threshold: float = 0.2
    """Least similarity of a match: IoU, reduced if the last pose does not fit into the box."""
    min_detections: int = 2
    """Detections that confirm a new track; at the start of a source, certain ones are confirmed at once. `sharpose`
    needs one less if the detector does not run for more than 0.3 s (`detector.every`, a budget)."""
    max_lost_s: float = 1.0
    """A track ends when it was not seen for this long in media time."""
    scene_cut: float = 14.0
    """Change of a frame's colours, 0 to 255, that counts as a cut, where all tracks end; 0 finds no cuts."""
    remember_s: float = 30.0
    """How long `sharpose` remembers the appearance of people who left, in media time: if they return, they get their id
    back. 0 turns this off, and the use of appearance where people meet."""
    camera_motion: bool = True
    """Estimate the camera's motion (hand-held, panning), so that it is not taken for motion of people: `sharpose` keeps
    track of people, and smoothing does not lag behind the picture. It costs the optical flow of a small picture."""

    def __post_init__(self) -> None:
        _one_of("tracker.name", self.name, ("sharpose", "bytetrack"))
        _within("tracker.high_score", self.high_score, 0, 1)
        _within("tracker.match_threshold", self.match_threshold, 0, 1)
        _within("tracker.min_detections", self.min_detections, 1)
        _within("tracker.max_lost_s", self.max_lost_s, 0)
        _within("tracker.remember_s", self.remember_s, 0)
        _within("tracker.scene_cut", self.scene_cut, 0, 255)


@dataclass(frozen=True)
class PoseConfig:
    """Which network estimates the keypoints, and how."""

    model: str = "tiny_256x192"
    """A variant (`sharpose-rt models` lists them), or a file: another project's top-down network in ONNX (.onnx) or
    OpenVINO form (.xml), such as RTMPose or ViTPose."""
    weights: str = "auto"
    """'auto' (those included for the variant), a .safetensors or .pth file, or 'random' (for testing only)."""
    behaviour: str = "auto"
    """'paper', 'released' (the authors' code, where it differs) or 'auto' (what the weights were trained with)."""
    quality_threshold: float | None = None
    """Crops with a lower predicted quality go through the fine stage (for tracked people the mean of the last 0.3 s
    counts). None uses the value in the weights, or `refine_from_gain` if that is given."""
    refine_from_gain: float | None = None
    """Crops for which the fine stage is predicted to add less AP (-1..1) keep the coarse pose. None uses the value in
    the weights, or `quality_threshold` if that is given. The weights must be able to predict it, see `sharpose-rt
    weights gain`."""
    refine_from_px: float = 0.0
    """People less tall in the picture keep the coarse pose, whatever its quality: their crops contain no detail that
    only the fine stage could see. 0: height does not matter."""
    refine_every: int | None = None
    """People who move as expected go through the fine stage only on every n-th frame, in turn; in between, their coarse
    pose is corrected by what the fine stage changed last. None: on each frame, and in a live run without a budget on
    every third while it drops frames."""
    flip_test: bool = False
    """Average with the mirrored crop: more accurate, at twice the time."""
    device: str = "auto"
    """'auto', 'cpu', 'cuda' or 'cuda:N'."""
    backend: str = "auto"
    """'torch', 'openvino' (CPU; the extra `cpu`), or 'auto': the fastest of those installed, as measured here."""
    precision: str = "auto"
    """'fp32', 'bf16', 'fp16' (CUDA), 'int8' (OpenVINO on a CPU, with quantized weights), or 'auto': the fastest of
    these, fp16 on CUDA. int8 may cost up to half a point of AP, which is checked when weights are quantized."""
    max_batch: int = 32
    """Most crops in one batch of the network."""
    threads: int | None = None
    """CPU threads of the network; None leaves some of the cores to decoding, detection and encoding."""
    box_padding: float | None = None
    """The crop is the box widened to the crop's aspect ratio and enlarged by this factor; None uses the value in the
    weights (the included ones: 1.1), otherwise 1.25."""
    pixels: str = "auto"
    """Pixel format of another project's network in a file (see `detector.pixels`). 'auto' uses the one that finds two
    people in a photograph best, or 'rgb_imagenet' if that is as good."""
    coarse_padding: float = 1.0
    """The same for people who keep the coarse pose whatever its quality (`refine_from_px`, or a threshold of -inf): the
    coarse stage sees the crop at half size, and is more accurate with a tighter one."""

    def __post_init__(self) -> None:
        _one_of("pose.behaviour", self.behaviour, ("auto", "paper", "released"))
        _one_of("pose.backend", self.backend, ("auto", "torch", "openvino"))
        _one_of("pose.precision", self.precision, ("auto", "fp32", "bf16", "fp16", "int8"))
        _device("pose.device", self.device)
        if self.quality_threshold is not None and math.isnan(self.quality_threshold):
            raise ConfigError("pose.quality_threshold is nan; a number is accepted (inf refines all, -inf none)")
        _within("pose.refine_from_gain", self.refine_from_gain, *GAIN_RANGE)
        _within("pose.refine_from_px", self.refine_from_px, 0)
        _within("pose.refine_every", self.refine_every, 1)
        _within("pose.max_batch", self.max_batch, 1, 1024)
        _within("pose.threads", self.threads, 1, 1024)
        _within("pose.box_padding", self.box_padding, *PADDING_RANGE)
        _one_of("pose.pixels", self.pixels, ("auto", *PIXEL_FORMS))
        _within("pose.coarse_padding", self.coarse_padding, *PADDING_RANGE)

    @property
    def refined_every(self) -> int:
        """`refine_every` if it is given, else 1."""
        return self.refine_every or 1


@dataclass(frozen=True)
class BudgetConfig:
    """What a live run keeps to, by reducing accuracy where it costs least; see `stages.budget`."""

    latency_ms: float | None = None
    """95 % of frames are output within this time after their capture; None: no such aim."""
    target_fps: float | None = None
    """Frames per second to output, if the source delivers as many; None: no such aim."""
    longest_detect_every: int = 30
    """The detector runs at least on every n-th frame."""
    predict: bool = True
    """As a last resort, poses are estimated for people in turn, and predicted by the smoother in between."""

    def __post_init__(self) -> None:
        _within("budget.latency_ms", self.latency_ms, 0, above=True)
        _within("budget.target_fps", self.target_fps, 0, 1000, above=True)
        _within("budget.longest_detect_every", self.longest_detect_every, 1)

    @property
    def wanted(self) -> bool:
        """Whether there is an aim."""
        return self.latency_ms is not None or self.target_fps is not None


@dataclass(frozen=True)
class SmoothConfig:
    """How keypoints are smoothed over time, in seconds of media time."""

    method: str = "kalman"
    """'kalman' (causal), 'rts' (files only: a backward pass removes the lag) or 'none'."""
    acceleration: float = 14.0
    """Standard deviation of the acceleration of fast keypoints, in box sizes (the longer side) per second squared."""
    noise: float = 0.01
    """Standard deviation of the position of a keypoint with score 1, in box sizes; it grows as the score falls."""
    min_score: float = 0.15
    """A keypoint below this score does not count as measured."""
    hold_s: float = 0.2
    """A keypoint that is not measured is continued for this long ..."""
    fade_s: float = 0.4
    """... and then its score fades within this time. The same holds for missing people, but for no longer than they had
    been in view."""

    def __post_init__(self) -> None:
        _one_of("smooth.method", self.method, ("kalman", "rts", "none"))
        _within("smooth.acceleration", self.acceleration, 1e-6, 1e6)  # outside of it the filter overflows
        _within("smooth.noise", self.noise, 1e-6, 1e3)
        _within("smooth.min_score", self.min_score, 0, 1)
        _within("smooth.hold_s", self.hold_s, 0)
        _within("smooth.fade_s", self.fade_s, 0)

    @property
    def forward(self) -> str:
        """How keypoints are smoothed causally, before any backward pass."""
        return "kalman" if self.method == "rts" else self.method


@dataclass(frozen=True)
class DrawConfig:
    """What is drawn on the annotated video."""

    min_score: float = 0.3
    """Keypoints with lower scores are not drawn."""
    boxes: bool = True
    """Person boxes."""
    ids: bool = True
    """Track ids."""
    angles: bool = False
    """Joint angles in degrees; see `geometry.angles`."""
    trail_s: float = 1.0
    """Length of the trail behind each person, seconds; 0 draws none."""
    status: bool = True
    """The status line: fps, people, exit rate."""
    picture: bool = True
    """False draws on black, so that nobody can be recognised; in the browser too."""
    faces: bool = True
    """False pixelates the heads of everybody found; in the browser too."""

    def __post_init__(self) -> None:
        _within("draw.min_score", self.min_score, 0, 1)
        _within("draw.trail_s", self.trail_s, 0)


@dataclass(frozen=True)
class OutputConfig:
    """What is written, and where."""

    directory: str = "sharpose_out"
    """Folder for the results, created if missing."""
    video: bool = True
    """Write the annotated video."""
    record: bool = False
    """Also keep the original pictures, in a video without drawing."""
    stream: bool = True
    """Write the skeleton stream."""
    crf: int = 23
    """x264 quality, 0 (lossless) to 51."""
    preset: str = "veryfast"
    """x264 preset: faster presets make larger files."""
    audio: bool = True
    """Copy the source's audio."""
    overwrite: bool = False
    """Replace the results of an earlier run; otherwise the names of new ones get a number."""
    split_s: float = 0.0
    """Write stream and video in parts of this many seconds of the source (for a live source, between multiples of it on
    the clock), each finished when the next begins; 0: in one."""
    formats: tuple[str, ...] = ()
    """Also write the skeletons in these formats of `convert`, when the run has ended."""
    format_options: tuple[str, ...] = ()
    """'KEY=VALUE' each: options of these formats, as for `convert`; used by every format that has KEY."""
    person_slots: int | None = None
    """Number of people in array formats (pyskl, kinetics); None: the default of the format."""
    fill: str = "none"
    """How gaps in a track are filled by formats that can (pyskl): 'none', 'hold' (the last position) or 'linear'."""

    def __post_init__(self) -> None:
        _within("output.crf", self.crf, 0, 51)
        if self.split_s:
            _within("output.split_s", self.split_s, 1)
        _one_of("output.fill", self.fill, ("none", "hold", "linear"))
        _within("output.person_slots", self.person_slots, 1, MOST_SLOTS)
        how = {"format_options": self.format_options, "person_slots": self.person_slots, "fill": self.fill != "none"}
        for name in (name for name, given in how.items() if given and not self.formats):
            raise ConfigError(f"output.{name} needs output.formats, and there are none; name some")
        if self.formats and not self.stream:
            raise ConfigError("output.formats are made from the skeleton stream; leave output.stream on")
        _one_of(
            "output.preset",
            self.preset,
            ("ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow"),
        )


@dataclass(frozen=True)
class LiveConfig:
    """What the browser view shows, and what is queued for consumers. Addresses and secrets are not part of it."""

    picture_px: int = 1280
    """Longer side of the pictures sent; larger frames are shrunk."""
    wall_px: int = 640
    """The same where all sources are shown side by side."""
    picture_quality: int = 75
    """JPEG quality, 1 to 100."""
    picture_fps: float = 30.0
    """Most pictures per second sent to a viewer."""
    history_s: float = 120.0
    """Seconds of media time of skeletons that can be downloaded."""
    video_px: int = 1280
    """Longer side of the video sent to a server (`--publish-video`); larger frames are shrunk."""
    video_kbps: int = 4000
    """Its highest bit rate, in kbit/s."""
    publish_queue: int = 256
    """Most records queued for a consumer with `--publish-policy queue`."""

    def __post_init__(self) -> None:
        _within("live.picture_px", self.picture_px, 64, 8192)
        _within("live.wall_px", self.wall_px, 64, 8192)
        _within("live.picture_quality", self.picture_quality, 1, 100)
        _within("live.picture_fps", self.picture_fps, 0, 240, above=True)
        _within("live.history_s", self.history_s, 1, 3600)
        _within("live.video_px", self.video_px, 64, 8192)
        _within("live.video_kbps", self.video_kbps, 100, 1_000_000)
        _within("live.publish_queue", self.publish_queue, 1, 65536)


@dataclass(frozen=True)
class RunConfig:
    """The configuration of a run: a section for each component."""

    source: SourceConfig = field(default_factory=SourceConfig)
    detector: DetectorConfig = field(default_factory=DetectorConfig)
    tracker: TrackerConfig = field(default_factory=TrackerConfig)
    pose: PoseConfig = field(default_factory=PoseConfig)
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    smooth: SmoothConfig = field(default_factory=SmoothConfig)
    draw: DrawConfig = field(default_factory=DrawConfig)
    output: OutputConfig = field(default_factory=OutputConfig)
    live: LiveConfig = field(default_factory=LiveConfig)
    queue_frames: int = 8
    """Most frames queued between two stages for a file, fewer if they are larger than 1080p (at most 64 MiB); a live
    source keeps only the newest."""
    offline: bool = False
    """Download nothing."""

    def __post_init__(self) -> None:
        _within("queue_frames", self.queue_frames, 1, 1024)
        if self.output.record and not (self.draw.faces and self.draw.picture):
            raise ConfigError(
                "--record keeps the original pictures with the faces that --hide-faces and --skeletons-only hide; "
                "leave one of them out"
            )
        if isinstance(self.tracker.high_score, Unset):
            score = Unset(0 if is_boxes_file(self.detector.name) else TrackerConfig.high_score)
            object.__setattr__(self, "tracker", replace(self.tracker, high_score=score))

    def below(self, folder: str | Path) -> RunConfig:
        """The same configuration with results in a subfolder of the output."""
        return replace(self, output=replace(self.output, directory=str(Path(self.output.directory) / folder)))
