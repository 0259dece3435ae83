"""Refined and synthetic images as Parquet that pandas and Hugging Face `datasets` open alike."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from stages.runtime.errors import UserError

_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
_HF = {"double": "float64"}  # Arrow's name of a type to Hugging Face's, where they differ
_ROW_GROUP = 1000


def write_table(path: str | Path, table: pd.DataFrame, images: Iterable[bytes] | None = None) -> None:
    """Write `table` to one Parquet file; its column `image` holds encoded bytes (PNG).

    `images` gives that column, as the first, one by one instead: then no more than a row group of them is in memory.
    The schema carries Hugging Face's image feature, so that `datasets.load_dataset("parquet", ...)` decodes it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if images is None:
        names, images = list(table.columns), table.get("image", ())
    else:
        names = ["image", *table.columns]
    columns = {name: _column(table[name]) for name in names if name != "image"}
    features = {
        n: {"dtype": _HF.get(str(columns[n].type), str(columns[n].type)), "_type": "Value"} if n in columns else {"_type": "Image"} for n in names
    }
    schema = pa.schema(
        [pa.field(name, columns[name].type if name in columns else _IMAGE) for name in names],
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    )
    ids, encoded = table["id"].tolist() if "id" in table else [None] * len(table), iter(images)
    with pq.ParquetWriter(path, schema, compression="none", use_dictionary=list(columns)) as writer:  # no two images are alike
        for start in range(0, len(table), _ROW_GROUP):
            part = slice(start, start + _ROW_GROUP)
            arrays = [columns[name][part] if name in columns else _pictures(encoded, ids[part]) for name in names]
            writer.write_table(pa.table(arrays, schema=schema))


def _column(values: pd.Series) -> pa.Array:
    """A column as Arrow, text and columns without any value as plain strings."""
    column = pa.Array.from_pandas(values)
    return column.cast(pa.string()) if pa.types.is_null(column.type) or pa.types.is_large_string(column.type) else column


def _pictures(encoded: Iterator[bytes | None], ids: list[str | None]) -> pa.Array:
    """The next encoded images, one for each of `ids`."""
    rows = [None if data is None else {"bytes": data, "path": f"{i}.png"} for i, data in zip(ids, encoded, strict=False)]
    return pa.array(rows, type=_IMAGE)


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


def read_facts(folder: str | Path) -> pd.DataFrame:
    """`read_table` without the images."""
    files = sorted(Path(folder).glob("*.parquet"))
    return read_table(folder, [name for name in pq.ParquetFile(files[0]).schema_arrow.names if name != "image"] if files else None)


def showing(table: pd.DataFrame) -> NDArray[np.intp]:
    """The positions (N,) of the rows of a refined table whose picture shows enough to learn from and to test on: all, but those that its
    column `unusable` says otherwise of."""
    return np.flatnonzero(table["unusable"] == "") if "unusable" in table else np.arange(len(table))


class Pictures:
    """The images of a folder by their rows in `read_table`, decoded when they are asked for: memory does not grow with the folder."""

    def __init__(self, folder: str | Path) -> None:
        files = [pq.ParquetFile(f) for f in sorted(Path(folder).glob("*.parquet"))]
        self._groups = [(file, k) for file in files for k in range(file.num_row_groups)]
        self._ends = np.cumsum([file.metadata.row_group(k).num_rows for file, k in self._groups])

    def __call__(self, rows: NDArray[np.intp]) -> NDArray[np.uint8]:
        """(N, H, W, 3) of the given `rows` (N,), in their order. All are in memory, and the row groups that hold them one after the other."""
        encoded: dict[int, bytes] = {}
        at = np.searchsorted(self._ends, rows, side="right")
        for number in np.unique(at):
            file, k = self._groups[number]
            held = file.read_row_group(k, columns=["image.bytes"]).column("image")
            start = self._ends[number] - len(held)
            encoded |= {int(row): held[int(row - start)]["bytes"].as_py() for row in rows[at == number]}
        return decode(encoded[int(row)] for row in rows)


def read_rows(folder: str | Path, split: pd.DataFrame, part: str, *labels: str) -> pd.DataFrame:
    """The refined images of the classes `labels` in `part` of `split`: its columns and the images' others, by id; `UserError` when there is none."""
    own = split[(split["split"] == part) & split["label"].isin(labels)]
    rows = own.merge(read_table(folder).drop(columns=["label", "group", "split"], errors="ignore"), on="id").sort_values("id", ignore_index=True)
    if rows.empty or len(rows) != len(own):
        raise UserError(
            f"{folder} holds {len(rows)} of the {len(own)} images of {', '.join(labels)} in split {part}; at least one is needed, and all of them"
        )
    return rows


def decode(encoded: Iterable[bytes], size: int | None = None) -> NDArray[np.uint8]:
    """Encoded images as one (N, H, W, 3) uint8 array; resized to `size` px square when they are not."""
    listed = list(encoded)
    images = np.empty((len(listed), size or 1, size or 1, 3), np.uint8)
    for k, data in enumerate(listed):
        picture = Image.open(io.BytesIO(data)).convert("RGB")
        if size and picture.size != (size, size):
            picture = picture.resize((size, size), Image.Resampling.LANCZOS)
        if k == 0:  # its size is that of all; written in place, for a list of arrays would hold each image twice
            images = np.empty((len(listed), picture.height, picture.width, 3), np.uint8)
        images[k] = np.asarray(picture)
    return images


def colourless(images: NDArray[np.uint8]) -> bool:
    """Whether (N, S, S, 3) uint8 `images` are shades of grey, as scans are: their channels differ by less than one level on average."""
    return bool(len(images)) and float(np.ptp(images, axis=-1).mean()) < 1
