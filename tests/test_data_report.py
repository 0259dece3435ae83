"""The data report: true counts, and warnings that appear when something is wrong and only then."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from numpy.typing import NDArray
from scipy import stats
from threadpoolctl import threadpool_limits

from stages import data_report
from stages.imaging.decode import BLANK
from stages.dataset.card import Card
from stages.dataset.table import Pictures, decode, read_facts, write_table
from stages.imaging.refining import encode_png
from stages.quality import confounding, labels, probes, shortcut
from stages.quality.probes import Images
from stages.quality.report import PUBLIC_IDS, TEXT_MISSES, describe
from stages.runtime.files import write_json
from stages.runtime.params import DataReport, read_params

ROOT = Path(__file__).parents[1]
CARD: dict[str, Any] = {
    "name": "toy", "title": "Toy", "licence": "none", "citation": "none", "modality": "drawing",
    "layout": {"kind": "csv", "table": "m.csv", "file": "f", "label": "l", "group": "g", "labels": {"df": "df", "nv": "nv", "mel": "mel"}},
    "attributes": {"age": "a", "sex": "s"},
    "classes": {"df": {"title": "dermatofibroma"}, "nv": {"title": "nevus", "normal": True}, "mel": {"title": "melanoma"}},
    "prompts": {key: ["x"] for key in ("base", "df", "nv", "mel")},
    "risk": {"low": 0.1, "high": 0.5},
}  # fmt: skip


def pictures(of: list[str], shortcut: bool, seed: int = 0) -> list[bytes]:
    """Noise of a random border brightness; with `shortcut` the border of df and mel is bright, that of nv dark."""
    rng = np.random.default_rng(seed)
    images = []
    for label in of:
        image = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        level = int(rng.integers(60, 190))
        if shortcut:
            level = 20 if label == "nv" else 230
        ring = np.ones((32, 32), bool)
        ring[2:-2, 2:-2] = False
        image[ring] = level + rng.integers(0, 10)
        images.append(encode_png(image))
    return images


def toy(shortcut: bool = False) -> pd.DataFrame:
    """60 images a class, two a group; 20 groups of each class in train, 5 in cal, 5 in test."""
    of = [label for label in ("df", "mel", "nv") for _ in range(60)]
    table = pd.DataFrame({"image": pictures(of, shortcut), "id": [f"{k:016x}" for k in range(180)], "label": of})
    table["group"] = [f"g{k // 2:03d}" for k in range(180)]
    table["split"] = [("train", "train", "train", "train", "cal", "test")[k % 60 // 10] for k in range(180)]
    table["age"] = [float("nan") if k % 6 == 0 else 40.0 + k % 5 for k in range(180)]
    table["sex"] = ["female" if k % 3 else None for k in range(180)]
    return table.assign(width=40, height=[32 + k % 2 for k in range(180)], mode="RGB", format="PNG", file_bytes=1000, recoded_bytes=900)


def see(images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Mean colour and its spread: what stands in for the backbone."""
    return np.hstack([images.mean((1, 2)), images.std((1, 2))])


def params() -> DataReport:
    return read_params(ROOT / "params.yaml").data_report.model_copy(update={"permutations": 199})


def facts_of(
    table: pd.DataFrame,
    card: dict[str, Any] = CARD,
    pairs: list[list[str]] | None = None,
    reasons: list[str] | None = None,
    images: Images | None = None,
    rare: str | None = "df",
    copies: dict[str, int] | None = None,
) -> dict[str, Any]:
    quarantine = pd.DataFrame({"file": [f"f{k}" for k in range(len(reasons or []))], "reason": reasons or []})
    refined = {
        "near_duplicates": pairs or [],
        "table_rows_without_file": 0,
        "public_ids": True,
        "unusable": {},
        "frames_left_out": {},
        "frame_copies": copies or {},
    }
    own = images or (lambda rows: decode(table["image"].iloc[rows]))
    with threadpool_limits(1):
        return data_report.make_facts(Card.model_validate(card), [rare] if rare else [], params(), table, own, quarantine, refined, see)[0]


def test_counts_per_class_and_part_are_true() -> None:
    facts = facts_of(toy())
    assert facts["classes"]["nv"] == {"train": {"images": 40, "groups": 20}, "cal": {"images": 10, "groups": 5}, "test": {"images": 10, "groups": 5}}
    assert facts["images"] == 180
    assert facts["groups"] == {"count": 90, "images_a_group": {"2": 90}, "several_labels": 0, "several_labels_ids": []}
    assert facts["attributes"]["age"]["missing"] == 30 and facts["attributes"]["age"]["max"] == 44
    assert facts["attributes"]["sex"] == {"known": 120, "missing": 60, "values": {"female": 120}}
    assert facts["originals"]["sizes"] == {"40x32": 90, "40x33": 90}
    assert facts["originals"]["kinds"]["df"] == {"PNG RGB": 60}
    json.dumps(facts, allow_nan=False)


def test_enlarged_images_are_counted_and_told() -> None:
    table = toy()
    assert facts_of(table)["originals"]["enlarged"]["n"] == 0
    facts = facts_of(table.assign(width=[8 if k < 7 else 40 for k in range(180)]))
    side = decode(table["image"].iloc[:1]).shape[1]
    assert facts["originals"]["enlarged"] == {"n": 7, "to": side}
    assert f"7 of 180 are smaller than {side} px and were enlarged" in describe(facts, ["df"], [])


def test_copies_under_two_labels_are_warned_of_in_archives_too() -> None:
    facts = facts_of(
        toy(), reasons=["exact duplicates under different labels: df, nv"] * 2, copies={"exact duplicates under different labels: df, nv": 2}
    )
    assert any(text.startswith("4 images are exact copies of each other under different labels") for text in facts["warnings"])


def test_a_device_that_goes_with_the_diagnosis_is_found() -> None:
    table = toy()
    layout = CARD["layout"] | {"kind": "csv", "table": "t.csv", "file": "file", "label": "label", "extra": ["device"]}
    facts = facts_of(table.assign(device=table["label"].map({"df": "A"}).fillna("B")), CARD | {"layout": layout})
    assert facts["confounded"]["device"]["strength"] > 0.9 and any(text.startswith("device goes with the diagnosis") for text in facts["warnings"])


def test_quarantine_is_counted_per_reason_without_the_other_file() -> None:
    reasons = ["exact duplicate of 00ff", "exact duplicate of 11aa", "empty file", "exact duplicates under different labels: a, b"]
    expected = {"exact duplicate": 2, "empty file": 1, "exact duplicates under different labels: a, b": 1}
    assert facts_of(toy(), reasons=reasons)["quarantine"] == expected


def test_a_planted_border_is_found_and_said() -> None:
    facts = facts_of(toy(shortcut=True))
    probe = facts["shortcut"]["df"]
    assert probe["auc"] > 0.99 and probe["against"] == "nevus" and (probe["n"], probe["n_positive"]) == (80, 40)
    assert probe["probe"] == "brightness of the border" and probe["fires"] and probe["p"] < 0.01 and probe["low"] > 0.6
    assert facts["warnings"][0] == probe["warning"]
    for told in (
        "a model can score well here without seeing the disease",
        "dermatofibroma (df)",
        "brightness of the border",
        "AUC 1.00 (0.85 to 1.00)",
    ):
        assert told in probe["warning"]


def test_no_planted_border_no_warning() -> None:
    facts = facts_of(toy())
    assert not facts["shortcut"]["df"]["fires"] and facts["shortcut"]["df"]["warning"] is None
    assert not any("without seeing" in text for text in facts["warnings"])


def test_the_probe_looks_at_training_images_only() -> None:
    table = toy()
    sealed = table["split"] != "train"
    swapped = table.copy()
    swapped.loc[sealed, "image"] = pd.Series(pictures(list(table["label"]), shortcut=True), index=table.index)[sealed]
    assert facts_of(swapped)["shortcut"] == facts_of(table)["shortcut"]


def test_too_few_groups_give_no_number() -> None:
    table = toy(shortcut=True)
    few = table[(table["label"] != "df") | (table["group"] < "g004")]
    facts = facts_of(few)
    assert [facts["shortcut"]["df"][key] for key in ("probe", "auc", "low", "high", "p")] == [None] * 5
    assert "too few" in describe(facts, ["df"], [])


def test_a_group_on_both_sides_is_left_out_of_the_audit() -> None:
    table = toy(shortcut=True)
    told = facts_of(table.assign(group=table["group"].replace({"g060": "g000"})))
    assert told["shortcut"]["df"]["n"] == 76 and told["groups"]["several_labels_ids"] == ["g000"]


def test_an_attribute_that_gives_the_class_away_is_said() -> None:
    table = toy()
    facts = facts_of(table.assign(sex=["female" if label == "df" else "male" for label in table["label"]]))
    assert facts["confounded"]["sex"]["strength"] > 0.9 and any("sex goes with the diagnosis" in text for text in facts["warnings"])
    absent = facts_of(table.assign(age=[40.0 + k % 5 if label == "df" else np.nan for k, label in enumerate(table["label"])]))
    assert any("whether age is recorded goes with the diagnosis" in text for text in absent["warnings"])


def test_burned_in_text_is_counted_per_class_and_what_is_missed_is_said() -> None:
    table = toy()
    facts = facts_of(table.assign(burned_in_text=[label == "mel" for label in table["label"]]))
    assert facts["burned_in_text"] == {"df": 0, "mel": 60, "nv": 0}
    page = describe(facts, ["df"], [])
    assert "melanoma: 60" in page and TEXT_MISSES in page
    assert facts_of(table)["burned_in_text"] is None


def test_strengths_agree_with_scipy_and_lose_their_bias() -> None:
    rng = np.random.default_rng(0)
    classes, sex = pd.Series(rng.choice(["a", "b", "c"], 300)), pd.Series(rng.choice(["f", "m"], 300))
    chi2 = stats.chi2_contingency(pd.crosstab(classes, sex), correction=False).statistic
    found = confounding.association(sex, classes, 200, 0)
    assert found is not None and found["strength"] == round(confounding.cramers_v(chi2, 300, 3, 2), 3) and found["p"] > 0.01
    assert confounding.cramers_v(300, 300, 2, 2) == pytest.approx(1)
    ages = pd.Series(rng.normal(size=300) + (classes == "a"))
    f = stats.f_oneway(*(ages[classes == name] for name in "abc")).statistic
    share = 2 * f / (2 * f + 297)
    assert (confounding.association(ages, classes, 200, 0) or {})["strength"] == round(confounding.correlation_ratio(share, 300, 3), 3)


def test_pictures_are_held_a_chunk_at_a_time_and_the_answers_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table, asked = toy(shortcut=True), []
    write_table(tmp_path / "part-000.parquet", table.iloc[:70])
    write_table(tmp_path / "part-001.parquet", table.iloc[70:])
    stored = Pictures(tmp_path)
    assert read_facts(tmp_path).equals(table.drop(columns="image"))

    def images(rows: NDArray[np.intp]) -> NDArray[np.uint8]:
        asked.append(len(rows))
        return stored(rows)

    order = np.array([150, 3, 69, 70, 3])
    assert (images(order) == decode(table["image"].iloc[order])).all()
    whole = facts_of(table)
    for module in (data_report, probes):
        monkeypatch.setattr(module, "CHUNK", 16)
    asked.clear()
    assert facts_of(table, images=images) == whole
    assert sum(asked) >= 240 and max(asked) <= max(16, params().review)


def test_permutations_in_blocks_are_those_of_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = facts_of(toy(shortcut=True))
    for module in (confounding, shortcut):
        monkeypatch.setattr(module, "MOST_HELD", 1000)
    assert facts_of(toy(shortcut=True)) == whole


def test_a_flat_folder_is_described_and_claims_nothing_of_labels() -> None:
    only = {
        "classes": {"unlabelled": {"title": "an image"}},
        "prompts": {"base": ["x"], "unlabelled": ["x"]},
        "layout": {"kind": "flat"},
        "attributes": {},
    }
    facts = facts_of(toy().assign(label="unlabelled"), CARD | only, rare="unlabelled")
    assert facts["shortcut"]["unlabelled"]["auc"] is None and facts["label_review"] == []
    assert "too few" in describe(facts, ["unlabelled"], [])
    none = facts_of(toy().assign(label="unlabelled"), CARD | only, rare=None)
    assert none["shortcut"] == {} and "Not asked: `rare` in params.yaml names no disease" in describe(none, [], [])


def test_swapped_labels_head_the_list() -> None:
    rng = np.random.default_rng(0)
    true = np.repeat([0, 1, 2], 40)
    features = np.eye(3)[true] + 0.2 * rng.normal(size=(120, 3))
    told = true.copy()
    told[[3, 50, 100]] = [2, 0, 1]
    table = pd.DataFrame({"id": [f"i{k}" for k in range(120)], "label": np.array(["a", "b", "c"])[told], "group": [f"g{k}" for k in range(120)]})
    found = labels.review(table, features, 20)
    assert set(found["row"][:3]) == {3, 50, 100}
    assert ("i3", "c", "a") in list(found[["id", "label", "suggested"]].itertuples(index=False, name=None))
    assert labels.review(table[:40], features[:40], 20).empty  # one class: nothing to compare with


def test_clusters_of_near_duplicates_are_counted() -> None:
    ids = list(toy()["id"])
    near = facts_of(toy(), pairs=[[ids[0], ids[1]], [ids[1], ids[2]], [ids[10], ids[11]]])["near_duplicates"]
    assert (near["pairs"], near["clusters"], near["largest"]) == (3, 2, 3)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda t: t[(t["label"] != "mel") | (t["split"] != "cal")], "cal holds 0 lesion"),
        (lambda t: t.assign(group=t["group"].replace({"g030": "g000"})), "1 group.s. hold images of more than one class"),
    ],
)
def test_what_is_wrong_is_said(change: Any, told: str) -> None:
    said = pd.Series(facts_of(change(toy()))["warnings"])
    assert said.str.contains(told).any(), said.tolist()


def test_missing_groups_disagreeing_copies_and_rows_without_a_file_are_said() -> None:
    layout = CARD["layout"] | {"group": None}
    table = toy()
    facts = facts_of(table, CARD | {"layout": layout}, pairs=[[table["id"][0], table["id"][1]], [table["id"][0], table["id"][70]]])
    assert any("no patient or lesion ids" in text for text in facts["warnings"])
    assert facts["near_duplicates"] == {"pairs": 2, "clusters": 1, "largest": 3, "labels_disagree": [[table["id"][0], table["id"][70], "df", "mel"]]}
    assert any("1 pair(s) of near-duplicates have different labels" in text for text in facts["warnings"])


def test_enough_of_everything_leaves_no_warning() -> None:
    table = toy()
    more = table[table["split"] == "cal"]
    extra = pd.concat([more.assign(id=more["id"] + str(k), group=more["group"] + str(k)) for k in range(4)])
    assert facts_of(pd.concat([table, extra], ignore_index=True))["warnings"] == []


def test_the_command_writes_the_same_bytes_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = toy(shortcut=True)
    table["group"] = table["group"].replace({"g030": "g000"})
    dark = table.iloc[:1].assign(id="dark", group="dark", unusable=BLANK)
    write_table(tmp_path / "refined/part-000.parquet", pd.concat([dark, table.assign(unusable="")]).drop(columns="split"))
    pd.DataFrame({"file": ["m.csv"], "reason": ["a table"]}).to_csv(tmp_path / "refined/quarantine.csv", index=False)
    told = {"near_duplicates": [[table["id"][0], table["id"][70]]], "table_rows_without_file": 2, "public_ids": True}
    told |= {"frames_left_out": {"exact duplicate": 3, "unreadable": 0}, "frame_copies": {"exact duplicate": 3}}
    told["unusable"] = {BLANK: 1}
    write_json(tmp_path / "refined/refined.json", told)
    listed = table[["id", "label", "group", "split"]].assign(fold=np.where(table["split"] == "train", "0", ""))
    listed[listed["group"] != "g089"].to_csv(tmp_path / "split.csv", index=False)
    (tmp_path / "card.yaml").write_text(yaml.safe_dump(CARD | {"phantom": True}))
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(yaml.safe_load((ROOT / "params.yaml").read_text()) | {"rare": ["df"]}))
    monkeypatch.chdir(tmp_path)
    written = []
    for name in ("one", "two"):
        monkeypatch.setattr("sys.argv", ["data_report", "card.yaml", "refined", "split.csv", str(ROOT / "models/base"), name])
        data_report.main()
        files = [path for path in sorted((tmp_path / name).rglob("*")) if path.is_file()]
        written.append({path.relative_to(tmp_path / name).as_posix(): path.read_bytes() for path in files})
    assert written[0] == written[1]
    assert set(written[0]) - {"data/labels.png"} == {"data.json", "data.md", "data.png", "data/groups.png", "data/pairs.png", "data/shortcut_df.png"}
    text = written[0]["data.md"].decode()
    assert PUBLIC_IDS not in text and PUBLIC_IDS in describe(json.loads(written[0]["data.json"]) | {"phantom": False}, ["df"], [])
    assert "3 exact copies were left out." in text and "images or frames left out: exact duplicate: 3." in text
    assert f"are in no part, because they show too little to learn from or to test on: {BLANK}: 1." in text
    assert "drawings, not patients" in text and "dermatofibroma (df, rare)" in text and "without seeing the disease" in text
    assert json.loads(written[0]["data.json"])["classes"]["nv"]["left out"] == {"images": 2, "groups": 1}
    assert any("2 row(s) of the metadata table have no file" in w for w in json.loads(written[0]["data.json"])["warnings"])
