"""The synthetic images that lie closest to a real training image, each with that image: copies, where there are any, are among them."""

from __future__ import annotations

from typing import NamedTuple

import pandas as pd

from app.artifacts import Place
from stages.dataset.groups import read_split
from stages.dataset.table import decode, read_table


class Pair(NamedTuple):
    """A synthetic image and the training image next to it (both encoded), how the first was begun, and their distance (0..1)."""

    synthetic: bytes
    real: bytes
    mode: str
    distance: float


def training(place: Place, *labels: str) -> pd.DataFrame:
    """The real training images of the classes `labels`: id, label, group, image (encoded), in the order of their ids."""
    split = read_split(place.split)
    own = split.loc[(split["split"] == "train") & split["label"].isin(labels), ["id", "label", "group"]]
    return own.merge(read_table(place.refined, ["id", "image"]), on="id").sort_values("id", ignore_index=True)


def closest(place: Place, disease: str, count: int) -> list[Pair]:
    """The `count` accepted images of `disease` closest to any training image of it, or of a class whose images some of them were begun from.

    Distance and turns are those by which `stages.generate` rejects copies (stages.diffusion.selection): root mean square over 16 x 16 px.
    """
    from stages.diffusion.selection import references, thumbs
    from stages.metrics.memorisation import nearest

    drawn = read_table(place.synthetic / disease, ["id", "accepted", "mode", "source", "nearest_train_distance", "image"])
    drawn = drawn[drawn["accepted"]].sort_values(["nearest_train_distance", "id"]).head(count)
    sources = read_split(place.split).set_index("id")["label"].reindex(drawn["source"].dropna()).dropna()
    known = training(place, disease, *sources.unique())
    if drawn.empty or known.empty:
        return []
    real = decode(known["image"])
    vectors = references(real)
    distance, which = nearest(thumbs(decode(drawn["image"], real.shape[1])), vectors.reshape(-1, len(real), vectors.shape[1]))
    rows = zip(drawn["image"], known["image"].iloc[which], drawn["mode"], distance / vectors.shape[1] ** 0.5, strict=True)
    return sorted((Pair(a, b, mode, float(d)) for a, b, mode, d in rows), key=lambda pair: pair.distance)


def closest_real(place: Place, disease: str) -> float | None:
    """The least distance between training images of `disease` of two patients or lesions, to hold `closest` against; None where it has one alone."""
    from scipy.spatial.distance import cdist

    from stages.diffusion.selection import references, thumbs

    known = training(place, disease)
    groups = known["group"].to_numpy()
    if known["group"].nunique() < 2:
        return None
    real = decode(known["image"])
    vectors = thumbs(real)
    distance = cdist(vectors, references(real)).reshape(len(real), -1, len(real)).min(1) / vectors.shape[1] ** 0.5
    return float(distance[groups[:, None] != groups].min())
