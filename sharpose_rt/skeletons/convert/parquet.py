"""Apache Parquet: the table of the CSV, typed and compressed, with the header of the stream in its metadata."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import orjson

from sharpose_rt.errors import ConfigError
from sharpose_rt.skeletons.convert.common import new_file
from sharpose_rt.skeletons.convert.tables import PeopleTable
from sharpose_rt.skeletons.stream import StreamReader

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
    """Writes one row for each person in each frame: columns as in `write_csv`, zstd, nulls for missing values.

    frame_id and track_id are int64, pts_s float64, stage a dictionary of texts, the rest float32. The key
    'sharpose.header' of the schema's metadata contains the header line of the stream. `pandas.read_parquet`, DuckDB,
    Polars and Spark read it.

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

    table = PeopleTable(reader, raw=raw, min_score=min_score, predicted=predicted, angles=angles)
    kinds = {"frame_id": pa.int64(), "pts_s": pa.float64(), "track_id": pa.int64(), "picture": pa.string()}
    kinds["stage"] = pa.dictionary(pa.int8(), pa.string())
    always = ("frame_id", "pts_s", "stage")
    fields = [pa.field(name, kinds.get(name, pa.float32()), name not in always) for name in table.columns]
    schema = pa.schema(fields, {"sharpose.header": orjson.dumps(reader.header.to_record())})
    with new_file(out) as file, pq.ParquetWriter(file, schema, compression="zstd") as writer:
        frames = iter(table.reader)
        while group := list(islice(frames, _FRAMES_IN_A_GROUP)):
            rows = [row for frame in group for row in table.rows(frame)]
            columns = zip(*rows, strict=True) if rows else [()] * len(fields)
            arrays = [pa.array(column, field.type) for column, field in zip(columns, fields, strict=True)]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
