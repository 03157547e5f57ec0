"""Skeletons from a pipe: prints which hands are raised.

    sharpose-rt --source webcam --no-video --publish - | python pipelines/receive_stdin.py

Every line is one JSON record of the skeleton stream, so `jq` and similar tools work as well.
"""

from __future__ import annotations

import json
import sys


def main() -> None:
    names: list[str] = []
    for line in sys.stdin:
        record = json.loads(line)
        if record["type"] == "header":
            names = record["keypoints"]
            if not {"nose", "left_wrist", "right_wrist"} <= set(names):
                sys.exit(f"the keypoints {', '.join(names):.80} have no nose and wrists")
        elif record["type"] == "frame":
            raised = [f"{p['track_id']} {side}" for p in record["people"] for side in hands_up(p["keypoints"], names)]
            print(f"{record['pts_s']:9.3f} s  hands up: {', '.join(raised) or 'none'}", flush=True)


def hands_up(keypoints: list[list[float]], names: list[str], min_score: float = 0.3) -> list[str]:
    """Sides, 'left' and 'right', whose wrist is seen above the nose."""
    points = dict(zip(names, keypoints, strict=True))
    _, nose_y, nose_score = points["nose"]
    if nose_score < min_score:
        return []
    wrists = {side: points[f"{side}_wrist"] for side in ("left", "right")}
    return [side for side, (_, y, score) in wrists.items() if score >= min_score and y < nose_y]


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
