"""Raw files in, one table of square, de-identified, grouped images out; what cannot be used is quarantined with a reason.

In:  the dataset card (layout, attributes), every file under RAW_DIR, params.yaml (blocks `refine`, `threads`).
Out: OUT_DIR/part-*.parquet with a row an image: image (PNG, `refine.size` px), id, label, group, sha256 (of the raw file),
     source (keyed hash of its path), collection_id and collection_group where the layout names a collection, the card's attributes,
     split and extra columns where the layout names them, unusable (why the picture shows too little: blank or tiny; else empty),
     frame (its index in the file, from 0), width, height, mode, format,
     file_bytes of the raw file, recoded_bytes (its picture as JPEG at one quality), burned_in_text; OUT_DIR/quarantine.csv (file,
     reason), a row a file left out, so that every file is in exactly one of the two (as `source` or by its name);
     OUT_DIR/refined.json: near-duplicates, table rows without a file, whether ids are made under the public key, and counts of
     files and images.

    python -m stages.refine CARD RAW_DIR OUT_DIR

Images of one group (patient, lesion) or that are near-duplicates share a `group`, and so do the frames of one file. Names and ids of
the raw data never get out: `id`, `source` and `group` are HMAC-SHA256 under the environment variable RARELENS_ID_KEY. Set it to a secret
of your own for patients' data; the default is public, so that the open data sets get the same ids everywhere.

Each file is opened in a process with a limit on time and memory. Finished files wait in .cache/refine until the table is written: a run
that was interrupted, or stopped for a parameter of the search for duplicates, goes on from there.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stages.dataset.card import read_card
from stages.dataset.medmnist import refine_archive
from stages.dataset.raw import list_files, read_listing
from stages.dataset.store import Store, store_path
from stages.dataset.table import write_table
from stages.imaging.duplicates import Thumbs, components, near_pairs
from stages.imaging.refining import Refined, Unread, refine_file
from stages.runtime import ids
from stages.runtime.errors import UserError, run
from stages.runtime.files import fresh, write_json, write_text
from stages.runtime.guarded import Failed, Limits, guarded
from stages.runtime.ids import keyed
from stages.runtime.names import printable
from stages.runtime.params import Refine, read_params
from stages.runtime.progress import progress_bar

CACHE = Path(".cache/refine")
SHARD = 20_000  # images a Parquet file
SMALL_CLUSTER = 10  # images that may always be alike, however few there are in all
Fingerprints = Callable[[Sequence[int]], tuple[NDArray[np.uint64], Thumbs]]


def told(failed: Failed) -> str:
    """Why a file was given up, with the setting that would give it more."""
    return failed.reason + (f" (`refine.file_{failed.limit}` in params.yaml)" if failed.limit else "")


def refine_files(raw: Path, files: list[str], p: Refine, processes: int, store: Store, archived: int = 0) -> None:
    """Put the images of every file, or the reason why it cannot be used, into `store`; what is there already is not done again.

    MedMNIST archives hold `archived` images in all, and have the time of a file for every thousand of them.
    """
    todo = store.unfinished(raw, files)
    limits = Limits(p.file_seconds * (1 + archived // 1000), p.file_memory_mb)
    work = partial(refine_archive, raw, p.size) if archived else partial(refine_file, raw, p.size, p.frames)
    reasons: dict[str, str] = {}
    with progress_bar("refine", "file", len(files), len(files) - len(todo)) as bar:
        for file, answer in guarded(work, todo, limits, processes):
            if isinstance(answer, Refined):
                store.add(file, answer)
            elif isinstance(answer, str):
                reasons[file] = answer
            else:
                reason = told(answer) if isinstance(answer, Failed) else reasons.pop(file, None)
                store.finish(file, todo[file], reason, again=isinstance(answer, Failed) or isinstance(reason, Unread))
                bar.update()


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


def group_images(rows: pd.DataFrame, fingerprints: Fingerprints, p: Refine, threads: int) -> tuple[pd.DataFrame, dict[int, str], NDArray[np.int64]]:
    """Merge the groups of equal and alike images; `rows` is indexed from 0, and `fingerprints` gives hashes and thumbs of its keys. Returns
    `rows` with their final group, the rows to leave out with reasons, and the near-duplicate index pairs among those that stay.
    Unusable ones are no copies of each other: that two are black ties no patients together.
    """
    showing = rows[rows["unusable"] == ""]
    left_out, same = exact_duplicates(showing)
    stay = showing.index.difference(list(left_out)).to_numpy()
    near = near_pairs(*fingerprints(rows.loc[stay, "key"].tolist()), p.hash_distance, p.correlation, threads)
    if rows["label"].nunique() > 1:  # images of one class are looked at and predicted on: a large group hides nothing and teaches nothing
        refuse_large_cluster(rows.loc[stay, "group"], near, p.max_cluster_share)
    near = stay[near].astype(np.int64)
    links = np.concatenate([near, np.array(same, np.int64).reshape(-1, 2)])
    return rows.assign(group=merge_groups(rows["group"], links)), left_out, near


def name_images(rows: pd.DataFrame, archives: bool, collection: str | None = None) -> pd.DataFrame:
    """Keyed `id`, `source` and `group` for rows with file, frame and the raw group; where it is missing, the frames of a file are
    a group of their own, and so is each image of an archive.

    Data sets of one `collection` share the names of images and lesions, if not of folders: `collection_id` and `collection_group` are
    the same in each of them, None where no lesion is given.
    """
    source = [keyed("file", file) for file in rows["file"]]
    own_id = [key if frame == 0 else keyed("frame", f"{file}\0{frame}") for key, file, frame in zip(source, rows["file"], rows["frame"], strict=True)]
    own = own_id if archives else source
    group = [key if pd.isna(group) else keyed("group", str(group)) for key, group in zip(own, rows["group"], strict=True)]
    named = rows.assign(source=source, id=own_id, group=group)
    if collection is None:
        return named
    shared = [keyed(f"image of {collection}", PurePosixPath(file).stem) for file in rows["file"]]
    lesions = [None if pd.isna(lesion) else keyed(f"group of {collection}", str(lesion)) for lesion in rows["group"]]
    return named.assign(collection_id=shared, collection_group=pd.Series(lesions, index=named.index, dtype=object))


def frames_left_out(facts: pd.DataFrame, rows: pd.DataFrame, kept: pd.DataFrame, asked: bool) -> dict[str, int]:
    """Why frames of refined files are no images, with counts: with `images` they add up to all frames of these files.

    `facts` are the decoded frames (file, frame, frames), `rows` those with a label, `kept` those in the table; `asked`: all were asked for.
    """
    files = set(kept["file"])
    decoded, labelled = facts[facts["file"].isin(files)], int(rows["file"].isin(files).sum())
    missing = int(decoded.groupby("file")["frames"].first().sum()) - len(decoded)
    return {
        "not asked for (refine.frames)": 0 if asked else missing,
        "unreadable": missing if asked else 0,
        "label not on the card": len(decoded) - labelled,
        "exact duplicate": labelled - len(kept),
    }


def keep_apart(raw: Path, out: Path) -> None:
    """Refuse an OUT_DIR that is RAW_DIR, holds it or lies in it: it is emptied before the table is written."""
    one, other = raw.resolve(), out.resolve()
    if one == other or one in other.parents or other in one.parents:
        raise UserError(f"{out} is emptied and written anew, and {raw} must stay as it is: give an OUT_DIR that is neither in the other's folder")
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file: give a folder, which is emptied and written anew")


def main() -> None:
    """Read the card and the files, refine, find duplicates, write the table and the quarantine list."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("card", type=Path)
    parser.add_argument("raw", type=Path, metavar="RAW_DIR")
    parser.add_argument("out", type=Path, metavar="OUT_DIR")
    args = parser.parse_args()
    card, params = read_card(args.card), read_params(rare_needed=False)
    p = params.refine
    keep_apart(args.raw, args.out)

    if ids.is_public() and not card.phantom:
        print(f"warning: {ids.KEY} is not set: whoever guesses a file's name or a patient's id can find its images. For patients' data, set a secret")

    files = list_files(args.raw)
    listing = read_listing(card, args.raw, files)
    archives = card.layout.kind == "medmnist"
    settings = {"archives": archives, "size": p.size, "frames": p.frames, "seconds": p.file_seconds, "memory_mb": p.file_memory_mb}
    with Store(store_path(CACHE, args.raw, **settings)) as store:
        refine_files(args.raw, list(dict.fromkeys(listing.rows["file"])), p, params.threads, store, len(listing.rows) if archives else 0)
        facts = store.facts()
        named = name_images(listing.rows.merge(facts, on=["file", "frame"] if archives else "file"), archives, card.layout.collection)
        rows, left_out, near = group_images(named, store.fingerprints, p, params.threads)
        del named
        kept = rows.drop(index=list(left_out)).sort_values("id", ignore_index=True)
        sources = set(kept["source"])
        copies = {str(rows.at[i, "file"]): reason for i, reason in reversed(left_out.items()) if rows.at[i, "source"] not in sources}
        refused = listing.refused | store.refused() | copies
        frame_copies = Counter(reason.split(" of ")[0] for i, reason in left_out.items() if rows.at[i, "source"] in sources)

        out = fresh(args.out)
        quarantine = pd.DataFrame([(printable(file), refused[file]) for file in sorted(refused)], columns=["file", "reason"])
        write_text(out / "quarantine.csv", quarantine.to_csv(index=False, lineterminator="\n"))
        pairs = sorted(tuple(sorted((str(rows.at[i, "id"]), str(rows.at[j, "id"])))) for i, j in near)
        unusable = {str(why): int(n) for why, n in kept.loc[kept["unusable"] != "", "unusable"].value_counts().sort_index().items()}
        counts = {
            "public_ids": ids.is_public(),
            "files": len(files),
            "files_refined": len(sources),
            "files_quarantined": len(refused),
            "images": len(kept),
            "unusable": unusable,
            "frame_copies": dict(sorted(frame_copies.items())),  # of files that are used: archives, and those with several frames
            "frames_left_out": frames_left_out(facts, rows, kept, asked=archives or p.frames == "all"),
        }
        write_json(out / "refined.json", {"near_duplicates": pairs, "table_rows_without_file": listing.without_file, **counts})
        if kept.empty:
            lost = f", and {listing.without_file} row(s) of the table name no file that is there" if listing.without_file else ""
            raise UserError(f"none of the {len(files)} file(s) under {args.raw} can be used{lost}; {out / 'quarantine.csv'} says why")
        first = ["id", "label", "group", "sha256", "source"]
        columns = first + [c for c in kept.columns if c not in (*first, "file", "frames", "key", "pixels")]
        images = store.images(kept["key"])
        for start in range(0, len(kept), SHARD):
            part = kept[columns].iloc[start : start + SHARD].reset_index(drop=True)
            write_table(out / f"part-{start // SHARD:03d}.parquet", part, images)
    store.remove()
    print(
        f"{len(kept)} images in {kept['group'].nunique()} groups, {len(refused)} of {len(files)} files quarantined, {len(near)} near-duplicate pairs"
    )
    for why, n in unusable.items():
        print(f"{n} image(s) show too little, and will be in no part: {why}")
    if listing.without_file:
        print(f"{listing.without_file} row(s) of the table have no file")


if __name__ == "__main__":
    run(main)
