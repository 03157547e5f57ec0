"""From a camera to an action label: windows of skeletons for a small ST-GCN. A DEMONSTRATION, not an action recogniser.

    python pipelines/action_feed.py webcam
    python pipelines/action_feed.py walking.skeletons.jsonl

The network knows four gestures and has never seen a real person: it is trained here, in less than a minute, on stick
figures that this file animates. What is real is the way from a source to a label, with the same `windows` in training
and in use; replace the network with your own.

The network is a small variant of ST-GCN (Yan, Xiong, Lin: Spatial Temporal Graph Convolutional Networks for
Skeleton-Based Action Recognition, AAAI 2018). Letters in shapes: N windows, C channels, T frames, V keypoints.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor, nn

from sharpose_rt import PoseTracker, open_source
from sharpose_rt.errors import SharposeError
from sharpose_rt.media import expand_sources
from sharpose_rt.models.variants import find_variant
from sharpose_rt.skeleton import COCO17
from sharpose_rt.skeletons import FrameRecord, StreamReader, Window, windows
from sharpose_rt.types import Poses

GESTURES = ("stand", "wave", "raise arms", "squat")
FPS = 25  # of the clips that the network is trained on, whatever the camera delivers
LENGTH, STRIDE = 48, 12  # frames: about two seconds, twice a second
STEPS, BATCH = 100, 16

# A person standing upright, x to the right and y down, in units of the height; the origin is the hips.
UPRIGHT = np.array([
    (0.0, -0.43), (0.02, -0.45), (-0.02, -0.45), (0.04, -0.44), (-0.04, -0.44),  # nose, eyes, ears
    (0.1, -0.32), (-0.1, -0.32), (0.12, -0.15), (-0.12, -0.15), (0.13, 0.0), (-0.13, 0.0),  # shoulders to wrists
    (0.06, 0.0), (-0.06, 0.0), (0.06, 0.24), (-0.06, 0.24), (0.06, 0.47), (-0.06, 0.47),  # hips to ankles
])  # fmt: skip
NAMES = COCO17.keypoints


def feed(frames: Iterable, stride: int = STRIDE) -> Iterator[Window]:
    """Windows of one person each, (N, 3, LENGTH, 17, 1), in training and in use."""
    return windows(
        frames, LENGTH, stride, fps=FPS, normalize="body", each_person=True, min_frames=LENGTH // 2, min_score=0.2,
        fill="linear", framework="torch",
    )  # fmt: skip


def pose_at(gesture: str, phase: float, side: str) -> np.ndarray:
    """(17, 2) heights: the stick figure at `phase` (0..1) of a gesture; `side` is the hand that waves."""
    pose, lift = UPRIGHT.copy(), 0.5 - 0.5 * np.cos(2 * np.pi * phase)
    sign = {"left": 1, "right": -1}
    for name in ("left", "right"):
        shoulder, elbow, wrist = (NAMES.index(f"{name}_{part}") for part in ("shoulder", "elbow", "wrist"))
        out = np.array([sign[name], 1.0])
        if gesture == "raise arms":
            angle = lift * 0.95 * np.pi  # from hanging to straight up
            for joint, reach in ((elbow, 0.17), (wrist, 0.32)):
                pose[joint] = pose[shoulder] + out * reach * np.array([np.sin(angle), np.cos(angle)])
        elif gesture == "wave" and name == side:
            swing = 0.5 * np.sin(4 * np.pi * phase)
            pose[elbow] = pose[shoulder] + out * (0.14, 0.02)
            pose[wrist] = pose[elbow] + out * (0.16 * np.sin(swing), -0.16 * np.cos(swing))
    if gesture == "squat":
        above = [i for i, name in enumerate(NAMES) if "knee" not in name and "ankle" not in name]
        pose[above, 1] += 0.25 * lift
        pose[[NAMES.index("left_knee"), NAMES.index("right_knee")]] += [(0.06 * lift, 0.03), (-0.06 * lift, 0.03)]
    return pose


def make_clip(gesture: str, rng: np.random.Generator, frames: int = LENGTH) -> list[FrameRecord]:
    """A person of random size, position, pace and slant making a gesture, with the noise of a pose network."""
    height_px, place, slant = rng.uniform(80, 500), rng.uniform(300, 900, 2), rng.normal(0, 0.08)
    pace, start, side = rng.uniform(0.5, 1.6) / FPS, rng.random(), rng.choice(["left", "right"])
    turn = np.array([[np.cos(slant), np.sin(slant)], [-np.sin(slant), np.cos(slant)]]) * (rng.uniform(0.6, 1.1), 1)
    build = 1 + rng.normal(0, 0.06, (17, 1))
    one, track_id = np.ones(1, np.float32), np.ones(1, np.int64)
    clip = []
    for t in range(frames):
        points = (pose_at(gesture, start + t * pace, str(side)) * build) @ turn + rng.normal(0, 0.012, (17, 2))
        points = (place + height_px * points).astype(np.float32)[None]
        scores = (rng.uniform(0.3, 1, (1, 17)) * (rng.random((1, 17)) > 0.08)).astype(np.float32)
        box = np.concatenate([points[0].min(0), points[0].max(0)])[None]
        poses = Poses(box, one, track_id, points, scores, points, scores, one, np.zeros(1, np.int64))
        clip.append(FrameRecord(t, t / FPS, poses))
    return clip


def make_set(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Windows (N, 3, T, V) and gestures (N,), equally many of each."""
    rng = np.random.default_rng(seed)
    labels = [i % len(GESTURES) for i in range(count)]
    data = [next(feed(make_clip(GESTURES[label], rng))).data[..., 0] for label in labels]
    return torch.cat(data), torch.tensor(labels)


class Block(nn.Module):
    """Graph convolution over each keypoint and its neighbours, then convolution over time."""

    def __init__(self, c_in: int, c_out: int, stride: int, adjacency: Tensor) -> None:
        super().__init__()
        self.register_buffer("adjacency", adjacency)  # (2, V, V): itself, neighbours
        self.importance = nn.Parameter(torch.ones_like(adjacency))
        self.spatial = nn.Conv2d(c_in, 2 * c_out, 1)
        self.temporal = nn.Sequential(
            nn.BatchNorm2d(c_out), nn.ReLU(), nn.Conv2d(c_out, c_out, (9, 1), (stride, 1), (4, 0)),
            nn.BatchNorm2d(c_out),
        )  # fmt: skip
        self.shortcut = nn.Conv2d(c_in, c_out, 1, (stride, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, T, V) to (N, C', T / stride, V)."""
        parts = torch.stack(self.spatial(x).chunk(2, dim=1))  # (2, N, C', T, V)
        y = torch.einsum("pnctv,pvw->nctw", parts, self.get_buffer("adjacency") * self.importance)
        return torch.relu(self.temporal(y) + self.shortcut(x))


class SmallSTGCN(nn.Module):
    """Three blocks and a mean over time and keypoints: (N, 3, T, V) to gesture scores (N, 4)."""

    def __init__(self) -> None:
        super().__init__()
        neighbours = torch.zeros(len(COCO17), len(COCO17))
        for a, b in COCO17.limbs:
            neighbours[a, b] = neighbours[b, a] = 1
        graph = torch.stack([torch.eye(len(COCO17)), neighbours / neighbours.sum(0, keepdim=True)])
        self.norm = nn.BatchNorm1d(3 * len(COCO17))
        sizes = ((3, 16, 2), (16, 32, 2), (32, 64, 2))
        self.blocks = nn.Sequential(*(Block(c_in, c_out, stride, graph) for c_in, c_out, stride in sizes))
        self.head = nn.Linear(64, len(GESTURES))

    def forward(self, x: Tensor) -> Tensor:
        """Scores of each gesture."""
        n, c, t, v = x.shape
        x = self.norm(x.permute(0, 1, 3, 2).reshape(n, c * v, t)).reshape(n, c, v, t).permute(0, 1, 3, 2)
        return self.head(self.blocks(x).mean(dim=(2, 3)))


def train(steps: int = STEPS, seed: int = 0) -> SmallSTGCN:
    """The network, trained on 160 generated windows; the same seed gives the same weights on the same machine."""
    torch.manual_seed(seed)
    data, labels = make_set(160, seed)
    network = SmallSTGCN()
    optimiser = torch.optim.AdamW(network.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=6e-3, total_steps=steps)
    for _ in range(steps):
        rows = torch.randint(len(data), (BATCH,))
        loss = nn.functional.cross_entropy(network(data[rows]), labels[rows])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return network.eval()


@torch.inference_mode()
def label(network: SmallSTGCN, frames: Iterable) -> Iterator[tuple[float, int, str, float]]:
    """Yields media time in s, track id, gesture and its probability, as soon as each window is complete."""
    for track_ids, data, pts_s in feed(frames):
        probabilities = network(data[..., 0]).softmax(dim=1)
        for track_id, time_s, row in zip(track_ids[:, 0].tolist(), pts_s[:, -1].tolist(), probabilities, strict=True):
            best = int(row.argmax())
            yield time_s, track_id, GESTURES[best], float(row[best])


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", nargs="?", default="webcam", help="a source of sharpose-rt, or a *.skeletons.jsonl")
    parser.add_argument("--model", default="tiny_256x192")
    parser.add_argument("--weights", default="auto")
    parser.add_argument("--detector", default="auto")
    parser.add_argument("--steps", type=int, default=STEPS, help="training steps (default %(default)s)")
    args = parser.parse_args(argv)
    if args.steps < 1:
        parser.error(f"--steps is {args.steps}; 1 or more is accepted")
    try:
        recognise(args, parser)
    except SharposeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def recognise(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Prints a line for each label; reports a source that cannot be opened before the training."""
    stream = StreamReader(args.source) if args.source.endswith(".jsonl") else None
    skeleton = find_variant(args.model).skeleton if stream is None else stream.header.skeleton
    if skeleton.keypoints != NAMES:
        parser.error(
            f"{args.model if stream is None else args.source} has the {len(skeleton)} keypoints of {skeleton.name}; "
            f"the {len(NAMES)} of COCO are accepted, such as --model tiny_256x192 has"
        )
    if stream is None:
        tracker = PoseTracker(args.model, pose={"weights": args.weights}, detector={"name": args.detector})
        frames = tracker.run(args.source)
        first = expand_sources(args.source)[0]
        if first != "-":  # a pipe can only be read once
            with open_source(first):
                pass
    else:
        frames = stream
    print("demonstration: the network only knows stick figures that this program animates; training ...", flush=True)
    network = train(args.steps)
    data, labels = make_set(80, seed=1)
    right = (network(data).argmax(1) == labels).float().mean()
    print(f"trained; right on {100 * right:.0f} % of 80 generated windows that it has not seen", flush=True)
    for time_s, track_id, gesture, probability in label(network, frames):
        print(f"{time_s:8.3f} s  id {track_id}  {gesture:<10}  {100 * probability:3.0f} %", flush=True)


if __name__ == "__main__":
    sys.exit(main())
