"""Refined and synthetic images as Parquet that pandas and Hugging Face `datasets` open alike."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from stages.runtime.errors import UserError

_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def write_table(path: str | Path, table: pd.DataFrame) -> None:
    """Write `table` to one Parquet file; its column `image` holds encoded bytes (PNG).

    The schema carries Hugging Face's image feature, so that `datasets.load_dataset("parquet", ...)` decodes it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    columns: dict[str, pa.Array] = {}
    features: dict[str, object] = {}
    for name in table.columns:
        if name == "image":
            ids = table["id"].tolist() if "id" in table else [None] * len(table)
            rows = [{"bytes": b, "path": f"{i}.png"} if b is not None else None for b, i in zip(table["image"], ids, strict=True)]
            columns[name] = pa.array(rows, type=_IMAGE)
            features[name] = {"_type": "Image"}
        else:
            columns[name] = pa.Array.from_pandas(table[name])
            kind = columns[name].type
            if pa.types.is_null(kind):
                columns[name], kind = columns[name].cast(pa.string()), pa.string()
            if pa.types.is_large_string(kind):
                columns[name], kind = columns[name].cast(pa.string()), pa.string()
            hf = {"double": "float64", "bool": "bool"}.get(str(kind), str(kind))
            features[name] = {"dtype": hf, "_type": "Value"}
    schema = pa.schema(
        [pa.field(n, c.type) for n, c in columns.items()],
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    )
    pq.write_table(pa.table(columns, schema=schema), path, compression="none", row_group_size=1000)


def read_table(folder: str | Path, columns: list[str] | None = None) -> pd.DataFrame:
    """Every *.parquet of `folder` as one frame, `image` as encoded bytes; `UserError` when there is none."""
    files = sorted(Path(folder).glob("*.parquet"))
    if not files:
        raise UserError(f"{folder} holds no .parquet file: run `dvc repro` (or python -m stages.refine) first")
    parts = [pq.ParquetFile(f).read(columns=columns).to_pandas() for f in files]
    table = pd.concat(parts, ignore_index=True) if len(parts) > 1 else parts[0]
    if "image" in table:
        table["image"] = [None if row is None else row["bytes"] for row in table["image"]]
    return table


def read_rows(folder: str | Path, split: pd.DataFrame, part: str, label: str) -> pd.DataFrame:
    """The refined images of class `label` in `part` of `split`: its columns and the image's others, by id; `UserError` when there is none."""
    own = split[(split["split"] == part) & (split["label"] == label)]
    rows = own.merge(read_table(folder).drop(columns=["label", "group", "split"], errors="ignore"), on="id").sort_values("id", ignore_index=True)
    if rows.empty or len(rows) != len(own):
        raise UserError(f"{folder} holds {len(rows)} of the {len(own)} images of {label} in split {part}; at least one is needed, and all of them")
    return rows


def decode(encoded: Iterable[bytes], size: int | None = None) -> NDArray[np.uint8]:
    """Encoded images as one (N, H, W, 3) uint8 array; resized to `size` px square when they are not."""
    images = []
    for data in encoded:
        picture = Image.open(io.BytesIO(data)).convert("RGB")
        if size and picture.size != (size, size):
            picture = picture.resize((size, size), Image.Resampling.LANCZOS)
        images.append(np.asarray(picture))
    side = size or 1
    return np.stack(images) if images else np.empty((0, side, side, 3), np.uint8)


def encode_png(pixels: NDArray[np.uint8]) -> bytes:
    """(H, W, 3) uint8 as PNG bytes, without metadata."""
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG", compress_level=6)
    return out.getvalue()
