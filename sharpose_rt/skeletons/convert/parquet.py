"""Apache Parquet: the table of the CSV, typed and compressed, with the stream's header in its metadata."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from sharpose_rt.errors import ConfigError
from sharpose_rt.skeletons.convert.common import (
    angle_columns,
    angles_of,
    found_points,
    has_pictures,
    new_file,
    rounded,
)
from sharpose_rt.skeletons.stream import FrameRecord, StreamReader, people_of

_FRAMES_IN_A_GROUP = 1000


def write_parquet(
    reader: StreamReader,
    out: Path,
    *,
    raw: bool = False,
    min_score: float = 0.0,
    predicted: bool = True,
    angles: bool = False,
) -> None:
    """Writes a row for each person of each frame: columns as `write_csv`, zstd, nulls for what was not found.

    frame_id and track_id are int64, pts_s float64, stage a dictionary of texts, the rest float32. The key
    'sharpose.header' of the schema's metadata holds the stream's header line. `pandas.read_parquet`, DuckDB, Polars
    and Spark read it.

    Raises:
        ConfigError: pyarrow is not installed.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise ConfigError(
            "parquet needs pyarrow: pip install 'sharpose-rt[parquet]'; csv has the same columns"
        ) from error

    if not predicted:
        reader = reader.without_predicted()
    stage = pa.dictionary(pa.int8(), pa.string())
    fields = [pa.field("frame_id", pa.int64(), False), pa.field("pts_s", pa.float64(), False)]
    fields += [pa.field("track_id", pa.int64())]
    fields += [pa.field(name, pa.float32()) for name in ("left", "top", "right", "bottom", "bbox_score", "quality")]
    fields += [pa.field("stage", stage, False)]
    names = reader.header.skeleton.keypoints
    fields += [pa.field(f"{name}_{part}", pa.float32()) for name in names for part in ("x", "y", "score")]
    fields += [pa.field(name, pa.float32()) for name in (angle_columns(reader) if angles else ())]
    pictures = has_pictures(reader)
    if pictures:
        fields += [pa.field("picture", pa.string())]
    schema = pa.schema(fields, {"sharpose.header": orjson.dumps(reader.header.to_record())})
    with new_file(out) as file, pq.ParquetWriter(file, schema, compression="zstd") as writer:
        frames = iter(reader)
        while group := list(islice(frames, _FRAMES_IN_A_GROUP)):
            rows = [row for frame in group for row in _rows(frame, reader, raw, min_score, angles, pictures)]
            columns = zip(*rows, strict=True) if rows else [()] * len(fields)
            arrays = [pa.array(column, field.type) for column, field in zip(columns, fields, strict=True)]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))


def _rows(
    frame: FrameRecord, reader: StreamReader, raw: bool, min_score: float, angles: bool, pictures: bool
) -> Iterator[list[Any]]:
    points = rounded(found_points(frame.poses, raw=raw, min_score=min_score))
    turned = angles_of(points, reader) if angles else [[]] * len(points)
    for person, table, bends in zip(people_of(frame.poses), points.astype(np.float32).tolist(), turned, strict=True):
        facts = [frame.frame_id, frame.pts_s, person["track_id"], *person["bbox_xyxy"], person["bbox_score"]]
        cells = [cell for point in table for cell in (point if point[2] > 0 else (None, None, None))]
        yield [*facts, person["quality"], person["stage"], *cells, *bends, *([frame.picture] if pictures else [])]
