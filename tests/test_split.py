"""Splitting: no group on two sides, shares and caps kept, the same for whoever draws it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from stages import split
from stages.imaging.decode import BLANK
from stages.dataset.groups import SEALED, read_split
from stages.dataset.table import write_table
from stages.imaging.refining import encode_png
from stages.runtime.errors import UserError
from stages.runtime.params import Split

ROOT = Path(__file__).parents[1]
PARAMS = Split(seed=0, val=0.15, cal=0.15, test=0.2, base=0, folds=3, max_images={}, max_train_per_rare_class=None, fold=None)


def images(seed: int, groups: dict[str, int], mixed: float = 0.0, most: int = 4) -> pd.DataFrame:
    """id, label, group of `groups[label]` groups a class with 1 to `most` images; a share `mixed` of the images changes its label."""
    rng = np.random.default_rng(seed)
    rows = []
    for label, count in groups.items():
        for g in range(count):
            for _ in range(int(rng.integers(1, most + 1))):
                other = str(rng.choice(sorted(groups))) if rng.random() < mixed else label
                rows.append((f"{rng.integers(2**60):016x}", other, f"{label}{g:04d}"))
    return pd.DataFrame(rows, columns=["id", "label", "group"]).sample(frac=1, random_state=seed).reset_index(drop=True)


COMMON = {"bkl": 40, "nv": 80}
RARE = {"df": 30, "vasc": 12}


def one_sided(out: pd.DataFrame) -> bool:
    return bool((out.groupby("group")["split"].nunique() == 1).all())


def checked(out: pd.DataFrame, folder: Path) -> pd.DataFrame:
    out.to_csv(folder / "split.csv", index=False)
    return read_split(folder / "split.csv")


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 10**6),
    mixed=st.sampled_from([0.0, 0.05]),
    base=st.sampled_from([0, 60]),
    cap=st.sampled_from([None, 8]),
    limit=st.sampled_from([{}, {"nv": 90}]),
)
def test_no_group_on_two_sides_and_nothing_lost(seed: int, mixed: float, base: int, cap: int | None, limit: dict[str, int]) -> None:
    table = images(seed, COMMON | RARE, mixed)
    p = PARAMS.model_copy(update={"seed": seed, "base": base, "max_train_per_rare_class": cap, "max_images": limit})
    out, moved = split.make_split(table, p, list(RARE))
    assert moved == 0 and one_sided(out) and out["id"].is_monotonic_increasing
    merged = out.merge(table, on=["id", "label", "group"])
    assert len(merged) == len(out)
    if not limit:
        assert len(out) == len(table)
    assert out["fold"].notna().equals(out["split"] == "train")
    assert (out[out["split"] == "train"].groupby("group")["fold"].nunique() == 1).all()
    assert set(out["fold"].dropna()) == set(range(p.folds))
    assert not (out["split"] == "base").any() or not set(out.loc[out["split"] == "base", "label"]) & set(RARE)
    assert (out["split"] == "base").sum() <= base
    if not mixed:
        assert base - (out["split"] == "base").sum() <= 6  # a group of up to 4 images may not fit what is left of a class
        for label, most in limit.items():
            assert most - 4 < (out["label"] == label).sum() <= most
    shuffled, _ = split.make_split(table.sample(frac=1, random_state=seed + 1), p, list(RARE))
    pd.testing.assert_frame_equal(out.reset_index(drop=True), shuffled.reset_index(drop=True))


def test_each_class_gets_its_shares() -> None:
    out, _ = split.make_split(images(1, COMMON | RARE), PARAMS, list(RARE))
    groups = out.groupby(["label", "split"])["group"].nunique()
    for label, count in (COMMON | RARE).items():
        for part, share in (("val", 0.15), ("cal", 0.15), ("test", 0.2), ("train", 0.5)):
            assert abs(groups[label, part] - share * count) <= 1


@given(st.integers(0, 60), st.floats(0, 0.3), st.floats(0, 0.3), st.floats(0, 0.3))
def test_parts_add_up_and_small_classes_reach_every_part(count: int, val: float, cal: float, test: float) -> None:
    shares = {"train": 1 - val - cal - test, "val": val, "cal": cal, "test": test}
    parts = split.parts_of(count, shares)
    assert sum(parts.values()) == count and min(parts.values()) >= 0
    wanted = [part for part, share in shares.items() if share > 0]
    assert count < len(wanted) or all(parts[part] for part in wanted)
    assert all(parts[part] == 0 for part, share in shares.items() if share == 0)


def test_surplus_over_the_cap_goes_half_to_oracle_and_half_to_reserve() -> None:
    table = images(2, {"df": 100, "nv": 100})
    full, _ = split.make_split(table, PARAMS, ["df"])
    capped, _ = split.make_split(table, PARAMS.model_copy(update={"max_train_per_rare_class": 20}), ["df"])
    df = capped[capped["label"] == "df"].groupby("split").size()
    assert 16 < df["train"] <= 20
    assert abs(df["oracle"] - df["reserve"]) <= 4
    assert df["train"] + df["oracle"] + df["reserve"] == ((full["label"] == "df") & (full["split"] == "train")).sum()
    for part in SEALED:  # what is sealed does not move when train is made scarcer
        assert set(full.loc[full["split"] == part, "id"]) == set(capped.loc[capped["split"] == part, "id"])
    common = capped[capped["label"] == "nv"]
    assert set(common["split"]) == {"train", "val", "cal", "test"}


def test_base_is_drawn_in_proportion_from_whole_common_groups() -> None:
    table = images(3, {"bkl": 100, "df": 20, "nv": 300})
    out, _ = split.make_split(table, PARAMS.model_copy(update={"base": 400}), ["df"])
    base = out[out["split"] == "base"]["label"].value_counts()
    share = (table["label"] == "nv").sum() / table["label"].isin(["nv", "bkl"]).sum()
    assert abs(base["nv"] / base.sum() - share) < 0.02 and 395 <= base.sum() <= 400


def test_more_patients_leave_most_of_the_others_where_they_are() -> None:
    table = images(4, COMMON | RARE)
    more = pd.concat([table, images(5, {"nv": 8}).assign(group=lambda t: "new" + t["group"])])
    one, two = (split.make_split(t, PARAMS, list(RARE))[0].set_index("id")["split"] for t in (table, more))
    assert (one == two[one.index]).mean() > 0.9


def test_another_seed_draws_another_split() -> None:
    table = images(6, COMMON | RARE)
    one, two = (split.make_split(table, PARAMS.model_copy(update={"seed": s}), list(RARE))[0] for s in (0, 1))
    assert (one["split"].to_numpy() != two["split"].to_numpy()).mean() > 0.3


@given(st.lists(st.tuples(st.integers(0, 12), st.sampled_from(split.PRECEDENCE)), min_size=1, max_size=60))
def test_a_fixed_split_is_kept_except_for_groups_merged_across_it(rows: list[tuple[int, str]]) -> None:
    table = pd.DataFrame(rows, columns=["group", "split"])
    kept, moved = split.keep_fixed(table)
    assert (kept.groupby(table["group"]).nunique() == 1).all()
    assert moved == (kept != table["split"]).sum()
    whole = table.groupby("group")["split"].transform("nunique") == 1
    assert (kept[whole] == table.loc[whole, "split"]).all()
    assert not ((kept == "test") & (table["split"] != "test")).any()  # test only loses
    touches = table.groupby("group")["split"].transform(lambda s: "train" in set(s) and "base" not in set(s)).astype(bool)
    assert (kept[touches] == "train").all()


def test_a_fixed_split_refuses_knobs_that_would_do_nothing() -> None:
    table = images(7, RARE | COMMON).assign(split="train")
    out, moved = split.make_split(table, PARAMS, ["df"])
    assert moved == 0 and set(out["split"]) == {"train"}
    with pytest.raises(UserError, match="the data fix the split"):
        split.make_split(table, PARAMS.model_copy(update={"max_train_per_rare_class": 5}), ["df"])


@pytest.mark.parametrize(
    ("change", "rare", "told"),
    [
        ({}, ["wart"], "rare names wart"),
        ({"max_images": {"wart": 3}}, ["df"], "max_images names wart"),
        ({"base": 5000}, ["df"], "split.base is 5000"),
        ({"folds": 200}, ["df"], "too few for split.folds"),
        ({"max_images": {"df": 1}, "max_train_per_rare_class": 1, "test": 0.9, "val": 0.0, "cal": 0.0}, ["df"], "no image of rare class"),
    ],
)
def test_impossible_wishes_are_refused_by_name(change: dict[str, object], rare: list[str], told: str) -> None:
    table = images(8, {"df": 4, "nv": 60}, most=1)
    with pytest.raises(UserError, match=told):
        split.make_split(table, PARAMS.model_copy(update=change), rare)


def test_a_group_of_several_labels_goes_with_its_majority_and_never_to_base_when_it_holds_a_rare_image() -> None:
    table = images(9, {"df": 30, "nv": 60}, most=3)
    both = pd.DataFrame([(f"{k:016x}", label, "both") for k, label in enumerate(["nv", "nv", "df"])], columns=["id", "label", "group"])
    groups = split.summarise(pd.concat([table, both]), ["df"])
    assert list(groups.loc["both"]) == ["nv", 3, True]
    even = pd.DataFrame([("a", "nv", "even"), ("b", "df", "even")], columns=["id", "label", "group"])
    assert split.summarise(pd.concat([table, even]), ["df"]).at["even", "label"] == "df"
    for seed in range(20):
        out, _ = split.make_split(pd.concat([table, both]), PARAMS.model_copy(update={"seed": seed, "base": 80}), ["df"])
        assert "base" not in set(out.loc[out["group"] == "both", "split"])


def test_the_command_writes_a_split_that_the_readers_accept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table = images(10, COMMON | {"df": 30, "vasc": 3}).assign(image=encode_png(np.zeros((4, 4, 3), np.uint8)))
    write_table(tmp_path / "refined/part-000.parquet", table[["image", "id", "label", "group"]])
    params = yaml.safe_load((ROOT / "params.yaml").read_text()) | {"split": PARAMS.model_dump(), "rare": ["df", "vasc"]}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["split", "refined", "out/split.csv"])
    split.main()
    first = (tmp_path / "out/split.csv").read_bytes()
    out = read_split(tmp_path / "out/split.csv")
    assert first.startswith(b"id,label,group,split,fold\n") and len(out) == len(table)
    told = capsys.readouterr().out
    assert "groups per class and part" in told and "warning: no image of rare class vasc in" in told
    split.main()
    assert (tmp_path / "out/split.csv").read_bytes() == first

    dark = pd.concat([table, table.assign(id="dark-" + table["id"])]).assign(unusable=[""] * len(table) + [BLANK] * len(table))
    write_table(tmp_path / "refined/part-000.parquet", dark)
    split.main()
    assert (tmp_path / "out/split.csv").read_bytes() == first, "what is blank moves nothing"
    assert f"{len(table)} image(s) left out, because they are blank or tiny" in capsys.readouterr().out
    write_table(tmp_path / "refined/part-000.parquet", dark.iloc[len(table) :])
    with pytest.raises(UserError, match="are blank or tiny: there is nothing to learn from"):
        split.main()


def test_over_the_folds_each_group_outside_base_is_tested_once() -> None:
    table = images(3, COMMON | RARE)
    parts = [
        split.make_split(table, PARAMS.model_copy(update={"fold": k, "base": 60, "max_train_per_rare_class": 8}), ["df", "vasc"])[0]
        for k in range(PARAMS.test_folds)
    ]
    base = {frozenset(out.loc[out["split"] == "base", "group"]) for out in parts}
    assert len(base) == 1 and PARAMS.test_folds == 5, "one base, outside every fold"
    tested = pd.concat([out.loc[out["split"] == "test", "group"].drop_duplicates() for out in parts])
    assert tested.is_unique and set(tested) == set(table["group"]) - next(iter(base))
    for out in parts:
        assert one_sided(out)
        for label in COMMON | RARE:
            assert {"train", "val", "cal", "test"} <= set(out.loc[out["label"] == label, "split"])
        assert {"oracle", "reserve"} <= set(out["split"])
    with pytest.raises(ValueError, match="there are 5, 0 to 4"):
        Split.model_validate(PARAMS.model_dump() | {"fold": 5})


def test_a_fold_of_a_fixed_split_is_refused() -> None:
    table = images(1, COMMON | RARE).assign(split="train")
    with pytest.raises(UserError, match="do nothing where the data fix the split"):
        split.make_split(table, PARAMS.model_copy(update={"fold": 1}), ["df"])
