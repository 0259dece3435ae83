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
    """The real training images of the classes `labels`: id, label, image (encoded), in the order of their ids."""
    split = read_split(place.split)
    own = split.loc[(split["split"] == "train") & split["label"].isin(labels), ["id", "label"]]
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
