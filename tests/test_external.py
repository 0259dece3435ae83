"""External test sets: what they share with the internal data is left out, and they are reported beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from numpy.typing import NDArray
from PIL import Image

from stages import external, refine
from stages.imaging.decode import BLANK
from stages.dataset.groups import group_hash, write_seen
from stages.dataset.table import read_table, write_table
from stages.imaging.refining import encode_png
from stages.imaging.watermark import encode_marked
from stages.runtime.errors import LawError, UserError
from stages.runtime.files import read_json, write_json
from tests.test_evaluate import Workplace, picture

ROOT = Path(__file__).parents[1]


def scene(number: int, size: int = 64) -> NDArray[np.uint8]:
    """A smooth picture of its own, (size, size, 3)."""
    coarse = np.random.default_rng(number).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC))


def row(key: str, number: int, label: str = "nv", **other: Any) -> dict[str, Any]:
    """A row of a refined table, all its own but what `other` says."""
    return {"id": key, "label": label, "group": f"g-{key}", "sha256": f"file-{key}", "image": encode_png(scene(number))} | other


def keep(root: Path, monkeypatch: pytest.MonkeyPatch, own: list[dict[str, Any]], other: list[dict[str, Any]]) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Run the stage on two refined tables; what stays, and external.json."""
    for name, rows in (("own", own), ("other", other)):
        write_table(root / name / "part.parquet", pd.DataFrame(rows))
    return run_stage(root, monkeypatch, ROOT / "data/phantom.yaml")


def run_stage(root: Path, monkeypatch: pytest.MonkeyPatch, card: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("sys.argv", ["external", *map(str, (root / "own", card, root / "other", root / "out"))])
    external.main()
    return read_table(root / "out"), read_json(root / "out/external.json")


def test_whatever_is_in_the_internal_data_is_left_out_with_its_lesion_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = [row(f"own-{k}", k, collection_id=f"image {k}", collection_group=f"lesion {k}") for k in range(6)]
    own.append(row("own-df", 6, "df", collection_id="image 6", collection_group=None))
    turned = np.clip(np.rot90(scene(4)).astype(int) + 3, 0, 255).astype(np.uint8)
    other = [
        row("a", 20, sha256="file-own-0"),
        row("own-1", 21, sha256="file-x", group="gx"),
        row("b", 22, group="g-own-2"),
        row("c", 3),
        row("d", 23, image=encode_png(turned)),
        row("e", 24, group="g-d"),
        row("f", 25, "scc"),
        row("i", 28, collection_id="image 3", collection_group=None),
        row("j", 29, collection_id="image 9", collection_group="lesion 4"),
        row("k", 30, "df", collection_id="image 10", collection_group=None),
        row("g", 26, "df"),
        row("h", 27),
    ]
    kept, found = keep(tmp_path, monkeypatch, own, other)
    assert kept["id"].tolist() == ["g", "h", "k"]
    assert found["images"] == 12 and found["title"] == "Dermoscopy phantoms (drawings)" and found["phantom"] is True
    assert found["dropped"] == dict.fromkeys(
        sorted([*external.SAME.values(), external.PIXELS, external.NEAR, external.KIN, external.CLASS]), 1
    )  # fmt: skip
    _, found = keep(
        tmp_path, monkeypatch, [one | {"unusable": ""} for one in own], [one | {"unusable": BLANK if one["id"] == "h" else ""} for one in other]
    )
    assert found["dropped"][external.BLANK] == 1 and found["images"] == 12
    keep(tmp_path, monkeypatch, own, other)
    again = (tmp_path / "out/part-000.parquet").read_bytes()
    keep(tmp_path, monkeypatch, own, other[::-1])
    assert (tmp_path / "out/part-000.parquet").read_bytes() == again, "the order of the rows is of no account"


def test_a_larger_set_that_contains_the_internal_one_leaves_only_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As ISIC 2019 contains HAM10000: other names and folders, the same files."""
    card = yaml.safe_load((ROOT / "data/phantom.yaml").read_text())
    card["layout"] = {"kind": "folders", "labels": {name: name for name in card["classes"]}}
    card["attributes"] = {}
    card["prompts"] = {key: ["a drawing of {title}"] for key in card["prompts"]}
    (tmp_path / "card.yaml").write_text(yaml.safe_dump(card))
    monkeypatch.chdir(ROOT)
    for name, labels in (("own", {"nv": 3, "df": 2}), ("other", {"nv": 5, "df": 3})):
        for label, count in labels.items():
            folder = tmp_path / "raw" / name / label
            folder.mkdir(parents=True)
            for k in range(count):
                Image.fromarray(scene(100 * (label == "df") + k, 96)).save(folder / f"{name}-{k}.png")
        (tmp_path / "raw" / name / "bkl").mkdir()
        monkeypatch.setattr("sys.argv", ["refine", *map(str, (tmp_path / "card.yaml", tmp_path / "raw" / name, tmp_path / name))])
        refine.main()
    kept, found = run_stage(tmp_path, monkeypatch, tmp_path / "card.yaml")
    assert kept["label"].value_counts().to_dict() == {"nv": 2, "df": 1}
    assert found["images"] == 8 and found["dropped"] == {"the same file": 5}


def test_nothing_left_and_made_images_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = [row("own", 0), row("own-df", 1, "df")]
    with pytest.raises(UserError, match=r"nothing is left for an external test of 2 images .*1 the same file; 1 the same picture"):
        keep(tmp_path, monkeypatch, own, [row("a", 5, sha256="file-own"), row("b", 1, "df")])
    with pytest.raises(UserError, match="all 1 images are blank or tiny"):
        keep(tmp_path, monkeypatch, own, [row("a", 5, unusable=BLANK)])
    with pytest.raises(LawError, match="AI-generated"):
        keep(tmp_path, monkeypatch, own, [row("a", 5, image=encode_marked(scene(5))), row("b", 6)])
    with pytest.raises(LawError, match="AI-generated"):
        keep(tmp_path, monkeypatch, own, [row("a", 5, accepted=True)])


# --- evaluate


@pytest.fixture
def place(tmp_path: Path) -> Workplace:
    """A workplace with the external set `clinic`: 12 lesions of df, 40 of nv, none of vasc."""
    place = Workplace(tmp_path)
    place.params["evaluate"]["external"] = ["clinic"]
    place.write_params(place.params)
    write_clinic(place)
    write_json(place.root / "external/clinic/external.json", {"title": "A clinic", "phantom": False, "images": 60, "dropped": {"the same file": 8}})
    return place


def write_clinic(place: Workplace, first: dict[str, Any] | None = None, labels: tuple[str, ...] = ("df",) * 12 + ("nv",) * 40) -> None:
    """The external set; `first` replaces values of its first row."""
    rows: list[dict[str, Any]] = []
    for k, name in enumerate(labels):
        own = {"id": f"clinic-{k}", "label": name, "group": f"gc-{k}", "sha256": f"c-{k}", "sex": "f"}
        rows.append(own | {"image": picture(("df", "nv", "vasc").index(name), 50_000 + k)})
    rows[0] |= first or {}
    write_table(place.root / "external/clinic/part-000.parquet", pd.DataFrame(rows))


def test_an_external_set_is_reported_beside_the_internal_test(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    place.change("combined", skill=6.0)
    report = place.run(monkeypatch)
    verdict = read_json(report / "verdict.json")
    found = verdict["external"]["clinic"]
    assert verdict["helps"] is True and verdict["n_test_lesions"] == 96 and "helps" not in found
    assert found["n_test_lesions"] == 52 and found["lesions"] == {"df": 12, "nv": 40, "vasc": 0} and found["missing_classes"] == ["vasc"]
    assert set(found["controls"]) == {"real", "weighted", "duplicate", "randaugment", "logit_adjust"}
    assert found["controls"]["real"]["rare_f1"]["low"] > 0 and found["aa"] is not None
    shown = found["regimes"]["combined"]["rare_f1"]
    assert shown["low"] <= shown["value"] <= shown["high"] and shown["value"] > found["regimes"]["real"]["rare_f1"]["high"]
    detail = read_json(report / "detail/external/clinic/combined.json")
    assert detail["classes"]["df"]["recall"] == "too few" and "f1" not in detail["classes"]["vasc"]
    assert shown["value"] == pytest.approx(detail["classes"]["df"]["f1"], abs=1e-5), "the mean over the rare classes that are here"
    assert set(detail["intervals"]) == {"rare_f1", "rare_ap", "f1_df", "ap_df", "accuracy", "balanced_accuracy", "macro_f1", "brier"}

    text = (report / "verdict.md").read_text()
    part = text.split("## External test: A clinic\n")[1].split("\n## ")[0]
    assert "52 lesions (52 images): df (12 lesions), nv (40 lesions)." in part and "8 the same file" in part
    assert "no image of vasc" in part and "Too few lesions for any claim about sensitivity (30 are needed): df (12)" in part
    assert "combined minus real" in part and "A/A" in part and "internal test alone" in part


def test_the_internal_answer_does_not_move_with_an_external_set(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    with_set = read_json(place.run(monkeypatch) / "verdict.json")
    metrics = (place.report / "metrics.json").read_bytes()
    place.params["evaluate"]["external"] = []
    place.write_params(place.params)
    without = read_json(place.run(monkeypatch) / "verdict.json")
    assert without == {key: value for key, value in with_set.items() if key != "external"} and (place.report / "metrics.json").read_bytes() == metrics
    assert not (place.report / "detail/external").exists()


@pytest.mark.parametrize(
    ("first", "message"),
    [
        ({"id": "syn-df-7"}, "synthetic image 'syn-df-7' lies in the external set clinic"),
        ({"image": picture(0, 10_000)}, "1 image.s. of the external set clinic have the pixels of a synthetic image"),
        ({"group": "g-test-nv-0"}, "1 image.s. have the group of an internal image"),
        ({"sha256": "file-val-nv-0"}, "1 image.s. have the sha256 of an internal image"),
        ({"group": "atlas"}, "external set clinic: models/base has seen 1 group"),
    ],
)
def test_laws_hold_for_an_external_set(place: Workplace, monkeypatch: pytest.MonkeyPatch, first: dict[str, Any], message: str) -> None:
    write_seen(place.models / "base", [group_hash("atlas")])
    write_clinic(place, first)
    with pytest.raises(LawError, match=message):
        place.run(monkeypatch)


@pytest.mark.parametrize("labels", [("nv",) * 40, ("df",) * 40])
def test_an_external_set_that_can_tell_nothing_is_refused(place: Workplace, monkeypatch: pytest.MonkeyPatch, labels: tuple[str, ...]) -> None:
    write_clinic(place, labels=labels)
    with pytest.raises(UserError, match=r"external set clinic: it must hold images of a rare class \(df, vasc\) and of another, and has"):
        place.run(monkeypatch)


@pytest.mark.parametrize("names", [["phantom"], ["clinic", "clinic"]])
def test_the_internal_set_and_a_set_named_twice_are_refused(place: Workplace, monkeypatch: pytest.MonkeyPatch, names: list[str]) -> None:
    place.params["evaluate"]["external"] = names
    place.write_params(place.params)
    with pytest.raises(UserError, match=r"evaluate\.external names a data set twice, or the internal one"):
        place.run(monkeypatch)
