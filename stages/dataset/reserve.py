"""The split `reserve`, divided once: the null of the memorisation tests, and the rest, which the scorer of the generator learns from."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from stages.dataset.groups import group_hash

NULL, REST = "null", "rest"
NULL_SHARE = 0.75  # of a disease's images that the null takes at most


def divide(split: pd.DataFrame, rare: Sequence[str], most: int) -> pd.Series:
    """What each reserve image of `split` (id, label, group, split) is for, by id: `NULL` (rare diseases only) or `REST`.

    By group, in an order fixed by the groups' hashes: a group of the null gives the rest no image. Each disease's null has at most `most`
    images and at most `NULL_SHARE` of what there is.
    """
    reserve = split[split["split"] == "reserve"].sort_values("id")
    order = reserve["group"].map(lambda group: group_hash(f"reserve/{group}"))
    null: set[str] = set()
    for disease in sorted(rare):
        own = order[reserve["label"] == disease]
        room = min(most, int(NULL_SHARE * len(own)))
        for name, size in own.value_counts().sort_index().items():
            if name in null or size > room:
                continue
            null.add(str(name))
            room -= int(size)
    taken = order.isin(null)
    use = pd.Series(REST, index=reserve["id"].to_numpy(), dtype=object)
    use[(taken & reserve["label"].isin(rare)).to_numpy()] = NULL
    return use[(~taken | reserve["label"].isin(rare)).to_numpy()]
