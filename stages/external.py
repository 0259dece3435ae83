"""Take out of another refined data set every image that the internal one holds, so that it can be an external test set.

In:  the refined images of both data sets, the card of the other, params.yaml (refine: how alike near-duplicates are).
Out: OUT_DIR/part-000.parquet, the images that stay, columns as refined; OUT_DIR/external.json: title, phantom, images (before), dropped
     (images by reason).

    python -m stages.external REFINED OTHER_CARD OTHER_REFINED OUT_DIR

Nothing is learned or chosen here. An image is compared with all of the internal data, whatever their split; where one goes, its
patient or lesion goes whole. Ids and groups can only be told to be the same where both sets were refined under one RARELENS_ID_KEY; those of
sets from one archive (ISIC 2019 contains HAM10000), whatever their folders, where both cards name it as `layout.collection`.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from stages.runtime import determinism

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from stages.dataset.card import read_card
from stages.dataset.table import decode, read_table, showing, write_table
from stages.imaging.duplicates import near_pairs
from stages.imaging.refining import fingerprint
from stages.imaging.watermark import is_marked
from stages.runtime.errors import LawError, UserError, run
from stages.runtime.files import fresh, write_json
from stages.runtime.params import read_params
from stages.runtime.progress import progress

SAME = {  # by column of the refined table; the collection's are there where the card names one
    "sha256": "the same file",
    "id": "the same id",
    "group": "the same patient or lesion",
    "collection_id": "the same image of the collection",
    "collection_group": "the same patient or lesion of the collection",
}
PIXELS = "the same picture"
NEAR = "nearly the same picture"
KIN = "of a patient or lesion with such an image"
CLASS = "of a class that the models do not know"
BLANK = "blank or tiny"


class Prints(NamedTuple):
    """What two pictures are compared by: `pixels` (N,) SHA-256 of size and pixels, `hashes` (N, 8) and `thumbs` (N, 32, 32) as
    `imaging.refining.fingerprint` gives them."""

    pixels: list[str]
    hashes: NDArray[np.uint64]
    thumbs: NDArray[np.uint8]


def take_prints(images: Iterable[bytes], what: str, total: int) -> Prints:
    """The prints of encoded images, one at a time, so that memory does not grow with the size of the pictures."""
    pixels, hashes, thumbs = [], [], []
    for encoded in progress(images, what, "image", total):
        picture = decode([encoded])[0]
        pixels.append(hashlib.sha256(f"{picture.shape}".encode() + picture.tobytes()).hexdigest())
        bits, thumb = fingerprint(Image.fromarray(picture))
        hashes.append(bits)
        thumbs.append(thumb)
    return Prints(pixels, np.stack(hashes), np.stack(thumbs))


def overlaps(own: pd.DataFrame, other: pd.DataFrame, own_prints: Prints, other_prints: Prints, distance: int, correlation: float) -> pd.Series:
    """Why each row of `other` (id, group, sha256, those of a collection) is left out, "" where it stays; by the first that holds, in their order.

    `own` is the whole internal data set (same columns); `distance` and `correlation` are those of `near_pairs`.
    """
    pairs = near_pairs(
        np.concatenate([own_prints.hashes, other_prints.hashes]), np.concatenate([own_prints.thumbs, other_prints.thumbs]), distance, correlation
    )
    across = pairs[(pairs[:, 0] < len(own)) & (pairs[:, 1] >= len(own)), 1] - len(own)
    found = [(other[column].isin(own[column].dropna()).to_numpy(), reason) for column, reason in SAME.items() if column in own and column in other]
    found += [(np.isin(other_prints.pixels, own_prints.pixels), PIXELS), (np.isin(np.arange(len(other)), across), NEAR)]
    reasons = pd.Series(np.select([hit for hit, _ in found], [reason for _, reason in found], ""), index=other.index)
    kin = other["group"].isin(other.loc[reasons != "", "group"]) & (reasons == "")
    return reasons.mask(kin, KIN)


def refuse_synthetic(table: pd.DataFrame, folder: Path) -> None:
    """Law 1: `LawError` when the refined table is one of synthetic images, or holds an image marked as AI-generated."""
    if "accepted" in table or any(is_marked(image) for image in table["image"]):
        raise LawError(f"{folder} holds AI-generated images: an external test set holds real images only")


def main() -> None:
    """Compare, leave out, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("refined", type=Path, metavar="REFINED")
    parser.add_argument("other_card", type=Path, metavar="OTHER_CARD")
    parser.add_argument("other_refined", type=Path, metavar="OTHER_REFINED")
    parser.add_argument("out", type=Path, metavar="OUT_DIR")
    args = parser.parse_args()
    params, card = read_params(), read_card(args.other_card)
    determinism.fix(params.threads)
    own, whole = (read_table(folder).sort_values("id", ignore_index=True) for folder in (args.refined, args.other_refined))
    refuse_synthetic(whole, args.other_refined)
    own, other = (table.iloc[showing(table)].reset_index(drop=True) for table in (own, whole))
    if other.empty:
        raise UserError(f"{args.other_refined}: nothing is left for an external test, all {len(whole)} images are {BLANK}")
    prints = [take_prints(table["image"], what, len(table)) for table, what in ((own, "internal"), (other, "external"))]
    reasons = overlaps(own, other, prints[0], prints[1], params.refine.hash_distance, params.refine.correlation)
    reasons = reasons.mask((reasons == "") & ~other["label"].isin(own["label"]), CLASS)
    dropped = {str(reason): int(n) for reason, n in reasons[reasons != ""].value_counts().sort_index().items()}
    dropped |= {BLANK: len(whole) - len(other)} if len(other) < len(whole) else {}
    kept = other[reasons == ""].reset_index(drop=True)
    if kept.empty:
        why = "; ".join(f"{n} {reason}" for reason, n in dropped.items())
        raise UserError(f"{args.other_refined}: nothing is left for an external test of {len(whole)} images ({why})")
    write_table(fresh(args.out) / "part-000.parquet", kept)
    write_json(args.out / "external.json", {"title": card.title, "phantom": card.phantom, "images": len(whole), "dropped": dropped})
    print(f"{card.title}: {len(kept)} of {len(whole)} images stay" + "".join(f"; {n} {reason}" for reason, n in dropped.items()))


if __name__ == "__main__":
    run(main)
