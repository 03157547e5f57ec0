"""Prints the skeleton label that CVAT needs to read the COCO keypoints of a label file.

    python pipelines/cvat_skeleton.py mine/annotations.json > label.json

Paste the output into the labels of a new task or project, under Raw. The skeleton is drawn in the pose of the person
with most keypoints in the file; keypoints that this person lacks are placed at the left margin.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("labels", help="annotations.json of `sharpose-rt collect`, or others in COCO's form")
    args = parser.parse_args(argv)
    try:
        label = skeleton_label(json.loads(Path(args.labels).read_text(encoding="utf-8")))
    except (OSError, ValueError, LookupError, TypeError, AttributeError, StopIteration) as error:
        print(f"error: {args.labels} is not a label file in COCO's form with keypoints: {error!r}", file=sys.stderr)
        return 2
    print(json.dumps([label], indent=1))
    return 0


def skeleton_label(document: dict[str, Any]) -> dict[str, Any]:
    """The label. Raises one of several errors where the document is of another form."""
    category = next(item for item in document["categories"] if item.get("keypoints"))
    names: list[str] = category["keypoints"]
    tables = [np.reshape(record["keypoints"], (len(names), 3)) for record in document["annotations"]]
    places = _placed(max(tables, key=lambda table: (table[:, 2] > 0).sum()))
    # CVAT numbers nodes from 1, as COCO does in `skeleton`, and lets in no other tags and attributes.
    svg = [
        f'<line x1="{places[a - 1][0]}" y1="{places[a - 1][1]}" x2="{places[b - 1][0]}" y2="{places[b - 1][1]}" '
        f'data-type="edge" data-node-from="{a}" data-node-to="{b}"></line>'
        for a, b in category["skeleton"]
    ]
    svg += [
        f'<circle r="0.75" cx="{x}" cy="{y}" data-type="element node" data-element-id="{node}" data-node-id="{node}" '
        f'data-label-name="{name}"></circle>'
        for node, (name, (x, y)) in enumerate(zip(names, places, strict=True), 1)
    ]
    sublabels = [{"name": name, "type": "points", "attributes": []} for name in names]
    return {
        "name": category["name"],
        "type": "skeleton",
        "attributes": [],
        "sublabels": sublabels,
        "svg": "".join(svg),
    }


def _placed(table: NDArray[np.float64]) -> list[list[float]]:
    """Where the keypoints (K, 3) of a person stand in CVAT's square of 100."""
    points, seen = table[:, :2].copy(), table[:, 2] > 0
    low, size = points[seen].min(0), np.ptp(points[seen], axis=0)
    points = 50 + 80 * (points - low - size / 2) / max(size.max(), 1)
    points[~seen] = np.stack([np.full(len(points), 5), np.linspace(5, 95, len(points))], 1)[~seen]
    return points.round(2).tolist()


if __name__ == "__main__":
    sys.exit(main())
