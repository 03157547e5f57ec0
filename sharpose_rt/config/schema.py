"""Every option of a run with its default, unit and range. The only home of defaults.

A component takes its own section, never the whole tree. Values are checked when a section is built, so a bad value
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
"""Video decoders in hardware, as FFmpeg calls them; 'cuda' is NVIDIA's NVDEC."""


@dataclass(frozen=True)
class SourceConfig:
    """Which part of a source is read, and how long to wait for it."""

    start_s: float = 0.0
    """Media time of the first frame, seconds from the source's beginning."""
    end_s: float | None = None
    """Media time at which reading ends (exclusive); None reads to the end."""
    stride: int = 1
    """Every stride-th frame is used."""
    max_frames: int | None = None
    """Stop after so many frames."""
    image_fps: float = 1.0
    """Frames per second at which a folder of images is taken to be filmed."""
    filmed_fps: float | None = None
    """Frames per second at which a video file was filmed, where it is slow motion stored at another rate: all times are
    those of the scene then, `start_s` and `end_s` too. None: as stored."""
    camera_size_wh: tuple[int, int] | None = None
    """Asked of a camera; it may give another size, which is then used."""
    camera_fps: float | None = None
    """Asked of a camera; of a screen, how often a second it is looked at (None: 30)."""
    camera_format: str = "mjpeg"
    """Asked of a camera: 'mjpeg' (large and fast) or 'yuyv' (raw: nothing lost, but slow above 640x480)."""
    realtime: bool = False
    """A file plays at its own pace as a camera would, and frames that come too late are dropped."""
    open_timeout_s: float = 10.0
    """A camera or URL that has not answered by then is an error."""
    read_timeout_s: float = 10.0
    """A live source that has sent no frame for so long is lost."""
    reconnect_s: float = 300.0
    """A live source that was lost is looked for again for so long; 0: not at all, inf: for ever."""
    rtsp_transport: str = "tcp"
    """'tcp' or 'udp'."""
    tls: str = "verify"
    """Certificates that are trusted of https, rtsps, rtmps, wss and mqtts: 'verify' (those of the address's host that
    the system trusts), a file of certificates in PEM (those of the host that are in it, or signed by one), or 'any'."""
    rotate: int = 0
    """Turns each picture clockwise by 0, 90, 180 or 270 degrees, as of a camera that hangs on its side. All coordinates
    are in the turned picture, those of a region and of given boxes too."""
    hwaccel: str = "none"
    """What decodes video: 'none' (the CPU), 'auto' (the first of `HWACCELS` that works here), or one of those."""
    max_bad_frames: int = 30
    """Undecodable frames in a row that are skipped before it is an error."""

    def __post_init__(self) -> None:
        _within("source.start_s", self.start_s, 0, 1e9)  # what a container can be asked for
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
    """The corners as floats; ConfigError where they span nothing."""
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
            f"detector.region is {region!r}; two opposite corners of a rectangle, [[x, y], [x, y]] in px, or three and "
            "more corners of a polygon are accepted"
        )
    return corners


@dataclass(frozen=True)
class DetectorConfig:
    """How people are found."""

    name: str = "auto"
    """'auto', 'bundled', an ultralytics model by name or path, another project's network in a file (.onnx, .xml),
    'full' (the frame is one person), or a boxes file."""
    score_threshold: float = Unset(0.25)
    """Boxes below are ignored, 0..1; 0 for a boxes file unless set. Between it and `tracker.high_score` a box only
    carries on who is followed already: `--min-person-score` sets both."""
    iou_threshold: float = 0.6
    """Overlap above which the weaker of two boxes is dropped, where the model needs such a step; the stronger one
    becomes the mean of those that agree, and who overlaps somebody surer is less sure. 1 leaves all as they are."""
    image_size: int | None = None
    """Longer side of the picture that the network sees, px; None is what it is made for (bundled 320, 512 while it
    sees small people, in files 1024 as well while many; others 640). Larger finds smaller people, and takes longer by
    its square."""
    every: int = 1
    """The detector runs on every n-th frame; the last pose carries boxes on in between."""
    every_if_sure: int = 0
    """While the poses of all people are sure, it runs on every n-th frame instead; 0 makes no difference. Somebody new
    is then seen up to so many frames late. It runs on each frame while it misses somebody, until their track ends."""
    max_people: int = 100
    """The strongest so many boxes are kept."""
    pixels: str = "auto"
    """How another project's network in a file wants its pixels: 'rgb_imagenet', 'bgr_imagenet' (less ImageNet's mean,
    over its deviation), 'rgb_unit', 'bgr_unit' (0 to 1), 'rgb' or 'bgr' (0 to 255). 'auto' takes that with which it
    finds the people of two photographs best."""
    person_class: int | None = None
    """Which of its classes are people, from 0; None is found out in the same way."""
    region: tuple[tuple[float, float], ...] = ()
    """Where people are looked for, [x, y] px each: two opposite corners of a rectangle, or the corners of a polygon.
    Whose box has its middle in it is found. The detector sees that part of the picture alone, with a margin, so that
    small people in it are larger to it; where somebody reaches out of that, it looks again with more around. Of `full`
    it is what the one person takes up."""

    def __post_init__(self) -> None:
        if isinstance(self.score_threshold, Unset):  # whoever gives boxes has decided
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
        """All corners of the region, also of a rectangle; none where the whole picture is looked at."""
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
    """Boxes at least this sure are matched first and may start a track, 0..1; 0 for a boxes file unless set. Weaker
    ones, down to `detector.score_threshold`, start none: `--min-person-score` sets both."""
    match_threshold: float = 0.2
    """Least similarity of a match: IoU, lowered where the last pose does not fit into the box."""
    min_detections: int = 2
    """Detections that confirm a new track; where a source begins, sure ones are confirmed at once. `sharpose` does with
    one less where frames go by without the detector for more than 0.3 s (`detector.every`, a budget)."""
    max_lost_s: float = 1.0
    """A track that was not seen for so long in media time ends."""
    scene_cut: float = 14.0
    """Change of a frame's colours, 0 to 255, from which it counts as a cut, where all tracks end; 0 finds no cuts."""
    remember_s: float = 30.0
    """For how long `sharpose` remembers how people looked who left, in media time: who comes back gets the id they had.
    0 remembers nobody, and does not look at people where they meet either."""
    camera_motion: bool = True
    """Find out how the camera moves (a hand, a pan), so that it is not taken for people's motion: `sharpose` finds its
    people again, and smoothing does not lag behind the picture. It takes the optical flow of a small picture."""

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
    """A variant (`sharpose-rt models` lists them), or a file: another project's top-down network in ONNX (.onnx) or in
    OpenVINO's form (.xml), such as RTMPose or ViTPose."""
    weights: str = "auto"
    """'auto' (those that ship with the variant), a .safetensors or .pth file, or 'random' (for plumbing only)."""
    behaviour: str = "auto"
    """'paper', 'released' (as the authors' code departs from it) or 'auto' (what the weights were trained with)."""
    quality_threshold: float | None = None
    """Crops with a predicted quality below it go through the fine stage (of who is tracked the mean of the last 0.3 s
    counts); None takes what the weights state, or leaves the choice to `refine_from_gain` where that is given."""
    refine_from_gain: float | None = None
    """Crops to which the fine stage is expected to add less AP (-1..1) take the coarse stage's pose; None takes what
    the weights state, or leaves the choice to `quality_threshold` where that is given. It wants weights that predict
    it, see `sharpose-rt weights gain`."""
    refine_from_px: float = 0.0
    """People less tall in the picture take the coarse stage's pose, whatever its quality: their crops hold no detail
    that the fine stage could see and the coarse one not. 0 lets the quality alone decide."""
    refine_every: int | None = None
    """Who moves on as expected goes through the fine stage on every n-th frame alone, each in turn; between, the coarse
    stage's pose is corrected by what the fine one changed last. None: on each, and in a live run without a budget on
    every third while it drops frames."""
    flip_test: bool = False
    """Average with the mirrored crop: better and twice as dear."""
    device: str = "auto"
    """'auto', 'cpu', 'cuda' or 'cuda:N'."""
    backend: str = "auto"
    """'torch', 'openvino' (CPU; the extra `cpu`), or 'auto': what is installed and was measured to be faster here."""
    precision: str = "auto"
    """'fp32', 'bf16', 'fp16' (CUDA), 'int8' (CPU, by OpenVINO, weights that are ready for it), or 'auto': the fastest
    of those, fp16 on CUDA. int8 may cost half a point of AP, which is checked when weights are made ready for it."""
    max_batch: int = 32
    """Crops that go through the network at once."""
    threads: int | None = None
    """CPU threads of the network; None leaves a part of the cores to decoding, detection and encoding."""
    box_padding: float | None = None
    """The crop is the box widened to the crop's aspect and enlarged by this factor; None takes what the weights state
    (those that ship 1.1), and 1.25 where they state none."""
    pixels: str = "auto"
    """How another project's network in a file wants its pixels (see `detector.pixels`). 'auto' takes that with which it
    finds two people in a photograph best, or 'rgb_imagenet' where that is as good."""
    coarse_padding: float = 1.0
    """The same for people who take the coarse stage's pose whatever its quality (`refine_from_px`, or a threshold of
    -inf): it sees half of the crop's size, and finds more in a closer crop."""

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
        """`refine_every` where it is given, else 1."""
        return self.refine_every or 1


@dataclass(frozen=True)
class BudgetConfig:
    """What a live run keeps to by giving up accuracy where it costs least; see `stages.budget` for how."""

    latency_ms: float | None = None
    """95 of 100 frames come out within so long of their capture; None: no such aim."""
    target_fps: float | None = None
    """So many frames a second come out, where the source gives as many; None: no such aim."""
    longest_detect_every: int = 30
    """The detector is stretched to every n-th frame at most."""
    predict: bool = True
    """In the last resort people are estimated in turn, and predicted by the smoother between."""

    def __post_init__(self) -> None:
        _within("budget.latency_ms", self.latency_ms, 0, above=True)
        _within("budget.target_fps", self.target_fps, 0, 1000, above=True)
        _within("budget.longest_detect_every", self.longest_detect_every, 1)

    @property
    def wanted(self) -> bool:
        """There is an aim."""
        return self.latency_ms is not None or self.target_fps is not None


@dataclass(frozen=True)
class SmoothConfig:
    """How keypoints are smoothed over time, in seconds of media time."""

    method: str = "kalman"
    """'kalman' (causal), 'rts' (files only: a backward pass takes the lag away) or 'none'."""
    acceleration: float = 14.0
    """Standard deviation of the acceleration of what moves fast, in box sizes (the longer side) per second squared."""
    noise: float = 0.01
    """Standard deviation of a keypoint of score 1, in box sizes; it grows as the score falls."""
    min_score: float = 0.15
    """A keypoint below this score is not taken as measured."""
    hold_s: float = 0.2
    """A keypoint that is not measured is carried on for so long ..."""
    fade_s: float = 0.4
    """... and then loses its score within so long. So it is with people who are missing, but for no longer than they
    had been there."""

    def __post_init__(self) -> None:
        _one_of("smooth.method", self.method, ("kalman", "rts", "none"))
        _within("smooth.acceleration", self.acceleration, 1e-6, 1e6)  # beyond them the filter's sums overflow
        _within("smooth.noise", self.noise, 1e-6, 1e3)
        _within("smooth.min_score", self.min_score, 0, 1)
        _within("smooth.hold_s", self.hold_s, 0)
        _within("smooth.fade_s", self.fade_s, 0)

    @property
    def forward(self) -> str:
        """How keypoints are smoothed as they come, before any backward pass."""
        return "kalman" if self.method == "rts" else self.method


@dataclass(frozen=True)
class DrawConfig:
    """What is drawn on the annotated video."""

    min_score: float = 0.3
    """Keypoints below are not drawn."""
    boxes: bool = True
    """Person boxes."""
    ids: bool = True
    """Track ids."""
    angles: bool = False
    """Angles at the joints, in degrees; see `geometry.angles`."""
    trail_s: float = 1.0
    """Length of the trail behind each person, seconds; 0 draws none."""
    status: bool = True
    """The status line: fps, people, exit rate."""
    picture: bool = True
    """False draws on black, so that nobody can be recognised; pictures in the browser are black then too."""
    faces: bool = True
    """False turns the heads of all who are found into a few blocks, in the browser too."""

    def __post_init__(self) -> None:
        _within("draw.min_score", self.min_score, 0, 1)
        _within("draw.trail_s", self.trail_s, 0)


@dataclass(frozen=True)
class OutputConfig:
    """What is written, and where."""

    directory: str = "sharpose_out"
    """Folder of the results, made when missing."""
    video: bool = True
    """Write the annotated video."""
    record: bool = False
    """Keep the pictures as they came too, in a video without drawing."""
    stream: bool = True
    """Write the skeleton stream."""
    crf: int = 23
    """x264 quality, 0 (lossless) to 51."""
    preset: str = "veryfast"
    """x264 preset: faster presets make larger files."""
    audio: bool = True
    """Copy the source's audio."""
    overwrite: bool = False
    """Replace results of an earlier run; else a number is added to the new ones' names."""
    split_s: float = 0.0
    """Stream and video in parts of so many seconds of the source (of a live one, from one multiple of them on the clock
    to the next), each finished when the next begins; 0: in one."""
    formats: tuple[str, ...] = ()
    """Also write the skeletons in these formats of `convert`, when the run has ended."""
    format_options: tuple[str, ...] = ()
    """'KEY=VALUE' each: options of those formats, as `convert` takes them; every format that knows KEY takes it."""
    person_slots: int | None = None
    """People of the formats that are arrays (pyskl, kinetics); None leaves it to the format."""
    fill: str = "none"
    """Gaps within a track in the formats that can fill them (pyskl): 'none', 'hold' (the last place) or 'linear'."""

    def __post_init__(self) -> None:
        _within("output.crf", self.crf, 0, 51)
        if self.split_s:
            _within("output.split_s", self.split_s, 1)
        _one_of("output.fill", self.fill, ("none", "hold", "linear"))
        _within("output.person_slots", self.person_slots, 1, MOST_SLOTS)
        how = {"format_options": self.format_options, "person_slots": self.person_slots, "fill": self.fill != "none"}
        for name in (name for name, given in how.items() if given and not self.formats):
            raise ConfigError(f"output.{name} says how output.formats are written, and there are none; name some")
        if self.formats and not self.stream:
            raise ConfigError("output.formats are made from the skeleton stream; leave output.stream on")
        _one_of(
            "output.preset",
            self.preset,
            ("ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow"),
        )


@dataclass(frozen=True)
class LiveConfig:
    """What the browser view shows, and what waits for a consumer. Addresses and secrets are no part of it."""

    picture_px: int = 1280
    """Longer side of the pictures sent; larger frames are shrunk."""
    wall_px: int = 640
    """The same where all sources are shown side by side."""
    picture_quality: int = 75
    """JPEG quality, 1 to 100."""
    picture_fps: float = 30.0
    """At most so many pictures a second go to a viewer."""
    history_s: float = 120.0
    """Skeletons of so many seconds of media time can be downloaded."""
    video_px: int = 1280
    """Longer side of the video that goes to a server (`--publish-video`); larger frames are shrunk."""
    video_kbps: int = 4000
    """Its rate at most, in thousands of bits a second."""
    publish_queue: int = 256
    """Records that wait at most for a consumer with `--publish-policy queue`."""

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
    """One run: a section for each component."""

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
    """Frames that wait at most between two stages of a file, fewer where they are larger than 1080p (64 MiB wait
    there at most); a live source keeps only the newest."""
    offline: bool = False
    """Download nothing."""

    def __post_init__(self) -> None:
        _within("queue_frames", self.queue_frames, 1, 1024)
        if self.output.record and not (self.draw.faces and self.draw.picture):
            raise ConfigError(
                "--record keeps pictures as they came, faces too, which --hide-faces and --skeletons-only are to hide; "
                "leave one of them away"
            )
        if isinstance(self.tracker.high_score, Unset):
            score = Unset(0 if is_boxes_file(self.detector.name) else TrackerConfig.high_score)
            object.__setattr__(self, "tracker", replace(self.tracker, high_score=score))

    def below(self, folder: str | Path) -> RunConfig:
        """The same with results in that folder below the output's."""
        return replace(self, output=replace(self.output, directory=str(Path(self.output.directory) / folder)))
