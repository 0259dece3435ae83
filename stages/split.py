"""Split by patient or lesion group, before anything is learned. A group lies in one part only.

In:  the refined table (id, label, group, unusable and, where the data fix it, split), params.yaml (blocks `split`, `rare`).
Out: OUT_CSV with a row an image, sorted by id: id, label, group, split, fold (0..k-1 for train rows, else empty). Images that are blank
     or tiny are in no part.

    python -m stages.split REFINED OUT_CSV

With a `split` column of the data's own (the phantom's), only groups that near-duplicates have merged across parts move.
Else groups are drawn: val, cal and test get their share of each class's groups, `base` its images of the common classes,
train the rest; what `max_train_per_rare_class` leaves over goes half to oracle and half to reserve. With `split.fold: k` test is the
k-th of round(1 / test) equal parts of each class's groups, so that over all folds each group outside base is tested once. The order of the draw
is a hash of (seed, group), so that more patients later leave most of the others where they are.
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

import pandas as pd

from stages.dataset.groups import SEALED, SPLITS, read_split
from stages.dataset.table import read_table, showing
from stages.runtime.errors import UserError, run
from stages.runtime.files import write_text
from stages.runtime.params import Split, read_params

MOST_BASE = 0.8  # of the common classes' images may go to base
#: A merged group that lies in several parts of a fixed split goes wholly to the first of these: test only ever loses images.
PRECEDENCE = ("base", "train", "reserve", "oracle", "val", "cal", "test")


def keep_fixed(table: pd.DataFrame) -> tuple[pd.Series, int]:
    """The data's own split with every group on one side, and how many images had to move. `table` has group and split."""
    rank = table["split"].map(PRECEDENCE.index)
    first = rank.groupby(table["group"]).transform("min")
    return first.map(lambda r: PRECEDENCE[int(r)]), int((first != rank).sum())


def summarise(table: pd.DataFrame, rare: list[str]) -> pd.DataFrame:
    """A row a group (index group, sorted): its label (the most frequent; of equals the class with the fewest images),
    its number of images, and whether it holds an image of a rare class. `table` has label and group.
    """
    counts = table.groupby(["group", "label"]).size().rename("n").reset_index()
    counts["total"] = counts["label"].map(table["label"].value_counts())
    best = counts.sort_values(["group", "n", "total", "label"], ascending=[True, False, True, True]).drop_duplicates("group").set_index("group")
    size = table.groupby("group").size()
    return pd.DataFrame({"label": best["label"], "images": size, "has_rare": table["label"].isin(rare).groupby(table["group"]).any()})


def draw(groups: pd.DataFrame, seed: int, purpose: str) -> pd.DataFrame:
    """`groups` in a random order that depends on the seed, the purpose and each group's name alone."""
    keys = {g: hashlib.sha256(f"{seed}/{purpose}/{g}".encode()).hexdigest() for g in groups.index}
    return groups.loc[sorted(groups.index, key=keys.__getitem__)]


def fill(groups: pd.DataFrame, images: int) -> list[str]:
    """The first groups, in order, that together hold at most `images` images; one too large for what is left is passed over."""
    chosen = []
    for group, size in groups["images"].items():
        if size <= images:
            chosen.append(str(group))
            images -= size
    return chosen


def apportion(total: int, weights: dict[str, float]) -> dict[str, int]:
    """`total` as whole numbers in proportion to `weights` (largest remainders)."""
    exact = {k: total * w / sum(weights.values()) for k, w in weights.items()}
    whole = {k: int(v) for k, v in exact.items()}
    for key in sorted(exact, key=lambda k: (whole[k] - exact[k], k))[: total - sum(whole.values())]:
        whole[key] += 1
    return whole


def parts_of(count: int, shares: dict[str, float]) -> dict[str, int]:
    """How many of a class's `count` groups each part gets; a part with a share gets one at least, once there are enough groups."""
    parts = apportion(count, shares)
    wanted = [p for p, share in shares.items() if share > 0]
    if count >= len(wanted):
        for part in wanted:
            if parts[part] == 0:
                parts[max(parts, key=lambda p: parts[p])] -= 1
                parts[part] = 1
    return parts


def assign(groups: pd.DataFrame, p: Split, rare: list[str]) -> dict[str, str]:
    """The part of each group that enters (`groups` from `summarise`); a group over a class's `max_images` is left out.

    Raises `UserError` when the common classes hold too few images for `p.base`.
    """
    unknown = sorted(set(p.max_images) - set(groups["label"]))
    if unknown:
        raise UserError(f"params.yaml: split.max_images names {', '.join(unknown)}, of which there is no image")
    part: dict[str, str] = {}
    pools = {}
    for label, members in groups.groupby("label"):
        pool = draw(members, p.seed, "max_images")
        pools[str(label)] = pool.loc[fill(pool, p.max_images[str(label)])] if label in p.max_images else pool

    common = {label: pool[~pool["has_rare"]] for label, pool in pools.items() if label not in rare}
    available = {label: float(pool["images"].sum()) for label, pool in common.items()}
    if p.base > MOST_BASE * sum(available.values()):
        raise UserError(
            f"params.yaml: split.base is {p.base}, over {MOST_BASE:.0%} of the {sum(available.values()):.0f} images of common classes: "
            "too few would be left to train and test on; lower it"
        )
    if p.base:
        for label, quota in apportion(p.base, available).items():
            part |= dict.fromkeys(fill(draw(common[label], p.seed, "base"), quota), "base")

    shares = {"train": 1 - p.val - p.cal - p.test, "val": p.val, "cal": p.cal, "test": p.test}
    for label, pool in pools.items():
        left = draw(pool.drop(index=[g for g in pool.index if g in part]), p.seed, "parts")
        if p.fold is not None:  # base is drawn before, and so lies outside every fold
            test = left.iloc[p.fold :: p.test_folds]
            part |= dict.fromkeys(map(str, test.index), "test")
            left, shares["test"] = left.drop(index=test.index), 0.0
        names = [name for name, count in parts_of(len(left), shares).items() for _ in range(count)]
        part |= dict(zip(map(str, left.index), names, strict=True))
        if label in rare and p.max_train_per_rare_class is not None:
            train = draw(left.loc[[g for g in left.index if part[g] == "train"]], p.seed, "surplus")
            kept = set(fill(train, p.max_train_per_rare_class))
            given = {"oracle": 0, "reserve": 0}
            for group, size in train.drop(index=list(kept))["images"].items():
                side = min(given, key=lambda s: given[s])
                part[str(group)] = side
                given[side] += size
    return part


def folds(train: pd.DataFrame, count: int, seed: int) -> pd.Series:
    """The fold, 0 to `count` - 1, of each training image: grouped, and stratified by class. `train` has id, label, group.

    Raises `UserError` when there are fewer groups than folds.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    if train["group"].nunique() < count:
        raise UserError(f"train holds {train['group'].nunique()} group(s), too few for split.folds {count}")
    classes = train.groupby("label")["group"].nunique()
    if train.groupby("label").size().max() < count:
        raise UserError(f"no class has split.folds {count} images in train: lower split.folds, or give train more images")
    for label in classes.index[classes < count]:
        print(f"warning: class {label} has {classes[label]} group(s) in train, fewer than split.folds {count}: some folds hold none of it")
    rows = train.sort_values("id")
    fold = pd.Series(0, index=rows.index, dtype="Int64")
    for k, (_, held) in enumerate(StratifiedGroupKFold(count, shuffle=True, random_state=seed).split(rows, rows["label"], rows["group"])):
        fold.iloc[held] = k
    return fold


def make_split(table: pd.DataFrame, p: Split, rare: list[str]) -> tuple[pd.DataFrame, int]:
    """`table` (id, label, group and maybe split) with split and fold, sorted by id; and how many images of a fixed split moved.

    Images over a class's `max_images` are left out. Raises `UserError` when a rare class has no image, or none in train.
    """
    table = table.reset_index(drop=True)
    absent = sorted(set(rare) - set(table["label"]))
    if absent:
        known = ", ".join(sorted(set(table["label"])))
        raise UserError(
            f"params.yaml: rare names {', '.join(absent)}, of which there is no refined image (there are {known}); "
            "where no class is a disease to be found, as in images without labels, write rare: []"
        )
    moved = 0
    if "split" in table:
        if p.base or p.max_images or p.max_train_per_rare_class or p.fold is not None:
            raise UserError(
                "params.yaml: split.base, max_images, max_train_per_rare_class and fold do nothing where the data fix the split; "
                "set 0, {}, null and null"
            )
        part, moved = keep_fixed(table)
    else:
        part = table["group"].map(assign(summarise(table, rare), p, rare))
    out = table[["id", "label", "group"]].assign(split=part).dropna(subset="split").sort_values("id")
    train = out[out["split"] == "train"]
    empty = sorted(set(rare) - set(train["label"]))
    if empty:
        raise UserError(
            f"no image of rare class(es) {', '.join(empty)} in train: too few groups, or split.max_train_per_rare_class under a group's size"
        )
    return out.assign(fold=folds(train, p.folds, p.seed)), moved


def main() -> None:
    """Read the refined table, split, write and check the csv, print the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("refined", type=Path, metavar="REFINED")
    parser.add_argument("out", type=Path, metavar="OUT_CSV")
    args = parser.parse_args()
    params = read_params(rare_needed=False)
    refined = read_table(args.refined, ["id", "label", "group", "unusable", "split"])  # split is there only where the data fix it
    table = refined.iloc[showing(refined)]
    if table.empty:
        raise UserError(f"{args.refined}: all {len(refined)} images are blank or tiny: there is nothing to learn from; look at the raw files")
    split, moved = make_split(table, params.split, params.rare)
    write_text(args.out, split[["id", "label", "group", "split", "fold"]].to_csv(index=False, lineterminator="\n"))
    checked = read_split(args.out)
    groups = checked.groupby(["label", "split"])["group"].nunique().unstack(fill_value=0)
    groups = groups[[part for part in SPLITS if part in groups]]
    print("groups per class and part:\n" + groups.to_string())
    if moved:
        print(f"{moved} image(s) moved, because near-duplicates join them to a group of another part")
    if len(table) < len(refined):
        print(f"{len(refined) - len(table)} image(s) left out, because they are blank or tiny")
    if len(checked) < len(table):
        print(f"{len(table) - len(checked)} image(s) left out by split.max_images")
    for label in params.rare:
        for part in SEALED:
            if not ((checked["label"] == label) & (checked["split"] == part)).any():
                print(f"warning: no image of rare class {label} in {part}")


if __name__ == "__main__":
    run(main)
