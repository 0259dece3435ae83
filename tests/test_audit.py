"""The audit as a stage, on drawings and a base of random weights: what it writes, when it stops, and what it says without `reserve`."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from stages import audit, lora_train
from stages.classifier import backbone, encoders
from stages.dataset.groups import group_hash, write_seen
from stages.dataset.table import read_table, write_table
from stages.diffusion.candidates import Candidates, flaws
from stages.imaging.phantoms import CLASSES, draw_lesion, render, rng_for
from stages.imaging.refining import encode_png
from stages.imaging.watermark import is_marked
from stages.metrics import memorisation
from stages.runtime.errors import LawError
from stages.runtime.files import read_json, sha256, write_json, write_text
from tests.tiny_disease import SIZE, build, change_params, files, stage

LEAST = 24  # stands in for the 300 images that a copy rate wants
AUDIT = {"per_class": 2, "steps": 1, "scorer_steps": 2, "noise_levels": 2, "sheet": 8}


def drawing(label: str, *key: object) -> bytes:
    """A drawn lesion of its own as PNG bytes."""
    return encode_png(render(draw_lesion(label, rng_for("audit", label, *key)), rng_for("photograph", label, *key), SIZE).pixels)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny world with a reserve, an adapter of df and drawn candidates in place of generated ones; not to be changed."""
    root = build(tmp_path_factory.mktemp("audit"))
    counts = [("reserve", "df", 44), *(("reserve", c, 3) for c in CLASSES if c != "df"), *(("val", c, 3) for c in CLASSES), ("train", "nv", 1)]
    counts += [("train", c, 1) for c in CLASSES if c not in ("df", "nv")]
    rows = [
        {"id": f"{part}-{label}-{k}", "label": label, "group": f"{part}-{label}-{k}", "split": part, "image": drawing(label, part, k), "age": 50.0}
        for part, label, count in counts
        for k in range(count)
    ]
    added = pd.DataFrame(rows)
    refined = read_table(root / "data/refined")
    write_table(root / "data/refined/part-0.parquet", pd.concat([refined, added.drop(columns="split")], ignore_index=True))
    split = pd.read_csv(root / "data/split.csv", dtype=str, keep_default_na=False)
    split = pd.concat([split, added[["id", "label", "group", "split"]].assign(fold="")], ignore_index=True)
    split.to_csv(root / "data/split.csv", index=False)
    params = yaml.safe_load((root / "params.yaml").read_text())
    params["rare"], params["refine"]["size"] = ["df"], SIZE
    params["audit"] |= AUDIT
    write_text(root / "params.yaml", yaml.safe_dump(params))
    folder = root / "body"
    backbone.save(backbone.build("test_resnet", 5, seed=0), folder / backbone.WEIGHTS)
    write_json(folder / "backbone.json", {"name": "test_resnet"})
    body = {"backbone": folder.as_posix(), "backbone_name": "test_resnet", "backbone_hash": sha256(folder / backbone.WEIGHTS)}
    write_json(root / "base/base.json", read_json(root / "base/base.json") | body)
    write_candidates(root, [drawing("df", "synthetic", k) for k in range(2 * LEAST)])
    with pytest.MonkeyPatch.context() as patch:
        stage(root, patch, lora_train.main, "base", "lora/df")
    return root


def write_candidates(root: Path, images: list[bytes | None]) -> None:
    """Candidates of df: half of them from text, half from the training image img0; every second one accepted."""
    n = len(images)
    table = pd.DataFrame(
        {
            "id": [f"syn-df-{k:03d}" for k in range(n)],
            "label": "df",
            "accepted": [k % 2 == 0 and image is not None for k, image in enumerate(images)],
            "image": images,
            "mode": ["text2img" if k < n // 2 else "img2img" for k in range(n)],
            "source": [None if k < n // 2 else "img0" for k in range(n)],
        }
    )
    write_table(root / "synthetic/df/part-0.parquet", table)


@pytest.fixture
def copy(world: Path, tmp_path: Path) -> Path:
    """A copy of the world that a test may change."""
    return Path(shutil.copytree(world, tmp_path / "copy"))


def run(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Call the stage in `root`."""
    monkeypatch.chdir(root)
    for module in (audit, memorisation):
        monkeypatch.setattr(module, "LEAST", LEAST)
    paths = "data/phantom.yaml data/refined data/split.csv base lora synthetic reports/tiny"
    monkeypatch.setattr(sys, "argv", ["audit", *paths.split()])
    audit.main()


def test_it_says_everything_of_every_mode_and_the_same_twice(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(copy, monkeypatch)
    found = read_json(copy / "reports/tiny/audit.json")
    assert set(found) == {"df", "all"} and set(found["df"]) == {"text2img", "img2img"}
    for mode in found["df"].values():
        assert mode["n"] == LEAST and mode["accepted"] == LEAST // 2
        assert mode["kid"] == mode["quality"][encoders.SHIPPED]["before"]["kid"]["value"]
        assert mode["kid_floor"] == found["all"]["floors"]["df"][encoders.SHIPPED]["kid"]["value"]
        assert {"value", "low", "high", "n"} <= set(mode["copy_excess"]) & set(mode["membership_auc"])
        assert mode["copy_excess"]["low"] < 0.05 and not mode["copy_excess"]["underpowered"]
        assert set(mode["quality"]) == {encoders.SHIPPED, encoders.RANDOM}
    whole = found["all"]
    assert 0 <= whole["generator_f1"] <= 1 and 0 <= whole["real_f1"] <= 1
    assert whole["scorer_trained_on"] == {c: 20 if c == "df" else 3 for c in CLASSES}  # 44 images of df, of which 24 are the null
    assert whole["generator"]["n"] == 2 * len(CLASSES) and whole["real"]["n"] == 2 * len(CLASSES)
    text = (copy / "reports/tiny/audit.md").read_text()
    assert "no evidence above the null" in text and "private" not in text.lower() and "for want of weights: " in text and "Inception score" in text
    pictures = copy / "reports/tiny/audit"
    assert is_marked((pictures / "rating.png").read_bytes()) and is_marked((pictures / "pairs_df.png").read_bytes())
    form, key = pd.read_csv(pictures / "rating_form.csv"), pd.read_csv(pictures / "rating_key.csv")
    assert list(form) == ["number", "answer"] and form["answer"].isna().all()
    assert key["kind"].value_counts().to_dict() == {"real": 4, "synthetic": 4}
    once = files(copy / "reports")
    run(copy, monkeypatch)
    assert files(copy / "reports") == once


def test_copies_of_training_images_stop_it_once_the_report_is_written(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train = read_table(copy / "data/refined").query("id in ['img0', 'img2', 'img4']")["image"].tolist()
    write_candidates(copy, [*[None, encode_png(np.zeros((SIZE, SIZE, 3), np.uint8))], *(2 * LEAST * train)[: 2 * LEAST]])
    with pytest.raises(
        LawError, match=r"df, img2img: .* more copies of training images.*accepted image\(s\) are the very picture|the very picture.*more copies"
    ):
        run(copy, monkeypatch)
    found = read_json(copy / "reports/tiny/audit.json")
    assert found["df"]["img2img"]["copy_excess"]["low"] > 0.5
    assert found["df"]["text2img"]["unusable"] == {"not finite": 1, "black or flat": 1}
    text = (copy / "reports/tiny/audit.md").read_text()
    assert "## This stops the pipeline" in text and "1 drawn image(s) are black or flat" in text


def test_without_reserve_val_is_the_null_and_it_says_so(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    split = pd.read_csv(copy / "data/split.csv", dtype=str, keep_default_na=False)
    split[split["split"] != "reserve"].to_csv(copy / "data/split.csv", index=False)
    run(copy, monkeypatch)
    found = read_json(copy / "reports/tiny/audit.json")
    mode = found["df"]["text2img"]
    assert mode["kid"] is None and mode["kid_floor"] is None and mode["quality"] == "no reserve images"
    for key in ("copy_excess", "membership_auc"):
        assert (
            mode[key]["value"] is not None
            and mode[key]["underpowered"] == (key == "copy_excess" or mode[key]["lesions_null"] < 5)
            and mode[key]["n_null"] == (split["split"] == "val").mul(split["label"] == "df").sum()
        )
    assert mode["auth_pct"]["value"] is not None and mode["null_from"] == "val"
    assert any("held against those of val" in text for text in found["all"]["warnings"])
    assert found["all"]["generator_f1"] is None and "no reserve images of" in found["all"]["note"]
    assert "no reserve images" in (copy / "reports/tiny/audit.md").read_text()


def test_a_lora_with_no_effect_stops_it(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = copy / "lora/df/pytorch_lora_weights.safetensors"
    save_file({name: weight * 0 for name, weight in load_file(path).items()}, path)
    info = read_json(copy / "lora/df/lora.json")
    write_json(copy / "lora/df/lora.json", info | {"sha256": info["sha256"] | {path.name: sha256(path)}})
    with pytest.raises(LawError, match="adapter with no effect"):
        run(copy, monkeypatch)


def test_an_adapter_that_saw_the_reserve_is_refused(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_seen(copy / "lora/df", [group_hash("reserve-df-0")])
    with pytest.raises(LawError, match="has seen a group of reserve"):
        run(copy, monkeypatch)


def test_an_encoder_whose_weights_are_at_hand_is_used_and_nothing_is_fetched(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(world)
    monkeypatch.setattr(encoders, "KNOWN", {"a known one": "test_resnet.r160_in1k", "another": "test_vit.r160_in1k"})
    weights = tmp_path / "model.safetensors"
    torch.manual_seed(0)
    save_file({k: v.contiguous() for k, v in backbone.build("test_resnet", 1000).state_dict().items()}, weights)
    monkeypatch.setattr(encoders, "cached", lambda name: weights if name.startswith("test_resnet") else None)
    found, missing = encoders.at_hand(Path("base"))
    assert list(found) == [encoders.SHIPPED, encoders.RANDOM, "a known one"] and missing == ["another"]
    images = np.random.default_rng(0).integers(0, 256, (3, SIZE, SIZE, 3)).astype(np.uint8)
    each = [encoder(images) for encoder in found.values()]
    assert all(features.shape == (3, each[0].shape[1]) and np.isfinite(features).all() for features in each)


def test_scores_that_papers_report_are_given_where_their_networks_are_at_hand(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoders, "KNOWN", {})
    monkeypatch.setattr(encoders, "cached", lambda name: Path(name) if name == encoders.VGG else None)
    monkeypatch.setattr(encoders, "lpips", lambda weights, a, b: np.abs(a.astype(float) - b).mean((1, 2, 3)))
    run(copy, monkeypatch)
    whole = read_json(copy / "reports/tiny/audit.json")["all"]
    assert {name: own["n"] for name, own in whole["published"]["df"].items()} == {"real": 20, "text2img": LEAST // 2, "img2img": LEAST // 2}
    assert all(own["LPIPS"] > 0 for own in whole["published"]["df"].values()) and whole["not_at_hand"] == ["Inception score"]
    text = (copy / "reports/tiny/audit.md").read_text()
    assert "In the units of publications:" in text and "| LPIPS" in text and "Not computed, for want of weights: Inception score." in text


def test_a_name_that_nobody_fetched_is_not_at_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert encoders.cached("no_such_model.ever") is None


def test_accepted_images_that_are_black_or_one_picture_are_told() -> None:
    images = np.random.default_rng(0).integers(0, 256, (4, 4, 4, 3)).astype(np.uint8)
    images[1], images[3] = 0, images[2]
    table = pd.DataFrame({"id": list("abcd"), "mode": "text2img", "accepted": True})
    assert flaws(Candidates(table, images, {})) == ["1 accepted image(s) are black or flat", "1 accepted image(s) are the very picture of another"]
    assert flaws(Candidates(table.assign(accepted=[True, False, True, False]), images, {})) == []


def test_fewer_accepted_images_than_wanted_are_said(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    change_params(copy, "audit", per_class=14)
    monkeypatch.setattr(audit, "draw_common", lambda _, __, known, count, *___: {c: np.zeros((count, SIZE, SIZE, 3), np.uint8) for c in known})
    write_candidates(copy, [drawing("df", "synthetic", k) for k in range(10)])
    run(copy, monkeypatch)
    assert read_json(copy / "reports/tiny/audit.json")["all"]["per_class"] == 5
    assert "rests on 5 images a class, not 14" in (copy / "reports/tiny/audit.md").read_text()
