"""Raw files in, one table of square, de-identified, grouped images out; what cannot be used is quarantined with a reason.

In:  the dataset card (layout, attributes), every file under RAW_DIR, params.yaml (blocks `refine`, `threads`).
Out: OUT_DIR/part-*.parquet with a row an image: image (PNG, `refine.size` px), id, label, group, sha256 (of the raw file),
     source (keyed hash of its path), the card's attributes, split and extra columns where the layout names them, and width,
     height, mode, format, file_bytes of the raw file; OUT_DIR/quarantine.csv (file, reason), a row a file left out, so that
     every file is in exactly one of the two; OUT_DIR/refined.json: near-duplicates, and table rows without a file.

    python -m stages.refine CARD RAW_DIR OUT_DIR

Images of one group (patient, lesion) or that are near-duplicates share a `group`. Names and ids of the raw data never get
out: `id`, `source` and `group` are HMAC-SHA256 under the environment variable RARELENS_ID_KEY. Set it to a secret of your
own for patients' data; the default is public, so that the open data sets get the same ids everywhere.
"""

from __future__ import annotations

import argparse
import hashlib
import hmac
import os
import stat
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stages.dataset.card import read_card
from stages.dataset.raw import list_files, read_listing
from stages.dataset.table import encode_png, write_table
from stages.imaging.decode import Refused, decode, square
from stages.imaging.duplicates import components, fingerprint, near_pairs
from stages.runtime.errors import UserError, run
from stages.runtime.files import fresh, write_json, write_text
from stages.runtime.params import Refine, read_params
from stages.runtime.progress import progress

MAX_FILE_BYTES = 500_000_000
SHARD = 20_000  # images a Parquet file
SMALL_CLUSTER = 10  # images that may always be alike, however few there are in all


class Refined(NamedTuple):
    """One image after decoding, with what is needed to find its duplicates."""

    image: bytes
    sha256: str
    width: int
    height: int
    mode: str
    format: str
    file_bytes: int
    pixels: str
    hashes: NDArray[np.uint64]
    thumb: NDArray[np.uint8]


def keyed(kind: str, value: str) -> str:
    """16 hex digits of HMAC-SHA256 of `value` under RARELENS_ID_KEY: the same value gives the same key, and no way back."""
    key = os.environ.get("RARELENS_ID_KEY", "rarelens")
    return hmac.new(key.encode(), f"{kind}\0{value}".encode(errors="surrogateescape"), hashlib.sha256).hexdigest()[:16]


def printable(name: str) -> str:
    """A file's name as UTF-8 text, whatever its bytes."""
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")


def refine_file(raw: Path, size: int, file: str) -> Refined | str:
    """Decode, crop and resize one file; a string is the reason why it cannot be used."""
    try:
        status = os.stat(raw / file)
        if not stat.S_ISREG(status.st_mode):
            return "a link to a folder, or no regular file"
        if status.st_size > MAX_FILE_BYTES:
            return f"file over {MAX_FILE_BYTES:,} bytes"
        data = (raw / file).read_bytes()
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    try:
        decoded = decode(data)
    except Refused as reason:
        return str(reason)
    hashes, thumb = fingerprint(decoded.picture)
    pixels = hashlib.sha256(f"{decoded.width} {decoded.height} ".encode() + decoded.picture.tobytes()).hexdigest()
    png = encode_png(np.asarray(square(decoded.picture, size)))
    facts = (decoded.width, decoded.height, decoded.mode, decoded.format, len(data))
    return Refined(png, hashlib.sha256(data).hexdigest(), *facts, pixels, hashes, thumb)


def refine_files(raw: Path, files: list[str], size: int, processes: int) -> Iterator[Refined | str]:
    """`refine_file` of every file, in order, in `processes` processes."""
    with ProcessPoolExecutor(processes) as pool:
        work = pool.map(partial(refine_file, raw, size), files, chunksize=16)
        yield from progress(work, "refine", "file", len(files))


def exact_duplicates(table: pd.DataFrame) -> tuple[dict[int, str], list[tuple[int, int]]]:
    """Rows of `table` (pixels, label, source) to leave out, with reasons, and the index pairs that are the same picture.

    Of several equal pictures the first stays, unless their labels disagree: then nobody knows the label and all go.
    """
    left_out: dict[int, str] = {}
    same: list[tuple[int, int]] = []
    for _, rows in table[table["pixels"].duplicated(keep=False)].groupby("pixels"):
        first, labels = int(rows.index[0]), sorted(set(rows["label"]))
        same += [(first, int(i)) for i in rows.index[1:]]
        if len(labels) > 1:
            left_out |= {int(i): f"exact duplicates under different labels: {', '.join(labels)}" for i in rows.index}
        else:
            left_out |= {int(i): f"exact duplicate of {rows['source'].iloc[0]}" for i in rows.index[1:]}
    return left_out, same


def merge_groups(groups: pd.Series, pairs: NDArray[np.int64]) -> list[str]:
    """The group of every image once the groups of linked images (`pairs`, positions) are one; a merged group takes its smallest name."""
    codes, names = pd.factorize(groups, sort=True)
    merged = components(len(names), codes[pairs])
    smallest = pd.Series(names).groupby(merged).transform("min").to_numpy()
    return [str(smallest[c]) for c in codes]


def refuse_large_cluster(groups: pd.Series, pairs: NDArray[np.int64], limit: float) -> None:
    """Stop when near-duplicate links between different groups join more than `limit` of all images (and more than 10).

    Links within one patient or lesion are left out: they are expected, and merge nothing.
    """
    values = groups.to_numpy()
    between = pairs[values[pairs[:, 0]] != values[pairs[:, 1]]]
    largest = int(np.bincount(components(len(groups), between)).max(initial=0))
    if largest > max(SMALL_CLUSTER, limit * len(groups)):
        raise UserError(
            f"near-duplicate links join {largest} of {len(groups)} images into one cluster, over refine.max_cluster_share {limit}: "
            "these images are alike by nature, not copies. In params.yaml raise refine.correlation or lower refine.hash_distance "
            "(or raise max_cluster_share, if copies they are)"
        )


def group_images(rows: pd.DataFrame, p: Refine) -> tuple[pd.DataFrame, dict[int, str], NDArray[np.int64]]:
    """Merge the groups of equal and alike images. Returns `rows` with their final group, the rows to leave out with
    reasons, and the near-duplicate index pairs among those that stay.
    """
    left_out, same = exact_duplicates(rows)
    stay = rows.index.difference(list(left_out)).to_numpy()
    kept = rows.loc[stay]
    hashes = np.stack(kept["hashes"].tolist()) if len(kept) else np.empty((0, 8), np.uint64)
    thumbs = np.stack(kept["thumb"].tolist()) if len(kept) else np.empty((0, 1, 1), np.uint8)
    near = near_pairs(hashes, thumbs, p.hash_distance, p.correlation)
    refuse_large_cluster(kept["group"], near, p.max_cluster_share)
    near = stay[near].astype(np.int64)
    links = np.concatenate([near, np.array(same, np.int64).reshape(-1, 2)])
    return rows.assign(group=merge_groups(rows["group"], links)), left_out, near


def main() -> None:
    """Read the card and the files, refine, find duplicates, write the table and the quarantine list."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("card", type=Path)
    parser.add_argument("raw", type=Path, metavar="RAW_DIR")
    parser.add_argument("out", type=Path, metavar="OUT_DIR")
    args = parser.parse_args()
    card, params = read_card(args.card), read_params()

    files = list_files(args.raw)
    listing = read_listing(card, args.raw, files)
    refused = dict(listing.refused)
    images: list[dict[str, object]] = []
    results = refine_files(args.raw, listing.rows["file"].tolist(), params.refine.size, params.threads)
    for row, result in zip(listing.rows.to_dict("records"), results, strict=True):
        file = str(row["file"])
        if isinstance(result, str):
            refused[file] = result
            continue
        source = keyed("file", file)
        group = keyed("file", file) if pd.isna(row["group"]) else keyed("group", str(row["group"]))
        images.append({"id": source, "source": source} | {str(k): v for k, v in row.items()} | {"group": group} | result._asdict())
    if images:
        rows, left_out, near = group_images(pd.DataFrame(images), params.refine)
    else:
        rows, left_out, near = pd.DataFrame(columns=["file", "id", "label"]), {}, np.empty((0, 2), np.int64)
    refused |= {str(rows.at[i, "file"]): reason for i, reason in left_out.items()}

    out = fresh(args.out)
    quarantine = pd.DataFrame([(printable(file), refused[file]) for file in sorted(refused)], columns=["file", "reason"])
    write_text(out / "quarantine.csv", quarantine.to_csv(index=False, lineterminator="\n"))
    pairs = sorted(tuple(sorted((str(rows.at[i, "id"]), str(rows.at[j, "id"])))) for i, j in near)
    write_json(out / "refined.json", {"near_duplicates": pairs, "table_rows_without_file": listing.without_file})
    kept = rows.drop(index=list(left_out)).sort_values("id", ignore_index=True)
    if kept.empty:
        raise UserError(f"none of the {len(files)} file(s) under {args.raw} can be used; {out / 'quarantine.csv'} says why")
    first = ["image", "id", "label", "group", "sha256", "source"]
    columns = first + [c for c in kept.columns if c not in (*first, "file", "pixels", "hashes", "thumb")]
    for start in range(0, len(kept), SHARD):
        write_table(out / f"part-{start // SHARD:03d}.parquet", kept[columns].iloc[start : start + SHARD].reset_index(drop=True))
    print(
        f"{len(kept)} images in {kept['group'].nunique()} groups, {len(refused)} of {len(files)} files quarantined, {len(near)} near-duplicate pairs"
    )
    if listing.without_file:
        print(f"{listing.without_file} row(s) of the table have no file")


if __name__ == "__main__":
    run(main)
