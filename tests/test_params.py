"""params.yaml, presets and cards: what is there is valid, and what is wrong is refused by its name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from stages.dataset.card import read_card
from stages.runtime.errors import UserError
from stages.runtime.launch import read_preset
from stages.runtime.params import REGIMES, read_params
from tests.repository import ROOT

PRESETS = sorted(path.stem for path in (ROOT / "presets").glob("*.yaml"))


def test_params_yaml_is_valid_and_its_card_exists() -> None:
    params = read_params(ROOT / "params.yaml")
    card = read_card(ROOT / f"data/{params.dataset}.yaml")
    assert set(params.rare) <= set(card.classes)
    assert params.phantom.name == params.dataset, "the default needs no download"


def test_the_presets_that_the_readme_names_exist() -> None:
    assert set(PRESETS) >= {"smoke", "ham10000-cpu", "ham10000-sd15", "rare_mri-cpu", "rare_mri-binary-cpu", "breastmnist-cpu"}


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_valid_and_its_card_exists(name: str) -> None:
    _, params = read_preset(name, ROOT / "presets", ROOT / "params.yaml")
    card = read_card(ROOT / f"data/{params.dataset}.yaml")
    assert card.name == params.dataset
    assert set(params.rare) <= set(card.classes)
    assert set(params.split.max_images) <= set(card.classes)
    assert params.generate.pool >= params.mix.per_class * len(params.train.seeds), "each seed draws its own synthetic images"
    assert len(params.train_real.aa_seeds) == len(params.train.seeds)
    assert params.base.source == "models/base" or params.base.revision, "a hub id is pinned"


@pytest.mark.parametrize("backbone", ["resnet18", "resnet50"])
def test_the_presets_for_a_gpu_differ_in_the_backbone_alone(backbone: str) -> None:
    first, other = (yaml.safe_load((ROOT / f"presets/{name}.yaml").read_text()) for name in ("ham10000-sd15", f"ham10000-sd15-{backbone}"))
    assert first["train"]["backbone"] == "efficientnet_b0"
    assert other == {**first, "train": {**first["train"], "backbone": backbone}}


def test_the_folds_for_a_gpu_are_those_of_its_preset() -> None:
    first, folds = (yaml.safe_load((ROOT / f"presets/{name}.yaml").read_text()) for name in ("ham10000-sd15", "ham10000-sd15-folds"))
    assert folds == first | {"train_synth": {"enabled": False}, "train_curriculum": {"enabled": False}}


def test_every_regime_has_its_block_and_its_stage() -> None:
    graph = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    assert {f"train_{regime}" for regime in REGIMES} == {name for name in graph if name.startswith("train_")}


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"train": {"stepps": 8}}, "train.stepps: is not a known key"),
        ({"extra": 1}, "extra: is not a known key"),
        ({"train": {"lr": "1e-4"}}, "train.lr: Input should be a valid number (got '1e-4')"),
        ({"train": {"steps": 8.5}}, "train.steps: Input should be a valid integer (got 8.5)"),
        ({"train": {"steps": 0}}, "train.steps: Input should be greater than 0"),
        ({"train": {"loss": "hinge"}}, "train.loss: "),
        ({"base": {"train": "yes"}}, "base.train: Input should be a valid boolean (got 'yes')"),
        ({"train": {"seeds": [1, 2, 6]}}, "share a seed"),
        ({"split": {"val": 0.5, "cal": 0.4}}, "nothing is left to train on"),
        ({"dataset": "../etc"}, "dataset: "),
        ({"generate": {"modes": {"text2img": 0.5, "img2img": 0.6, "interclass": 0.0}}}, "must sum to 1"),
        ({"generate": {"modes": {"text2img": 1, "img2img": 0, "inter": 0}}}, "generate.modes.inter: is not a known key"),
        ({"generate": {"strengths": {"img2img": [0.0], "interclass": [0.8]}}}, "generate.strengths.img2img"),
        ({"generate": {"strengths": {"img2img": [], "interclass": [0.8]}}}, "generate.strengths.img2img"),
        ({"generate": {"steps": 1}}, "steps times the least of strengths"),
        ({"generate": {"modes": {"text2img": 0.5, "img2img": 0.0, "interclass": 0.5}, "interclass_from": ["nv", "df"]}}, "names df, which is rare"),
        ({"generate": {"modes": {"text2img": 0.5, "img2img": 0.0, "interclass": 0.5}, "interclass_from": []}}, "name common classes"),
    ],
)
def test_a_wrong_value_is_refused_by_its_name(tmp_path: Path, change: dict[str, Any], complaint: str) -> None:
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    for key, value in change.items():
        values[key] = {**values[key], **value} if isinstance(value, dict) else value
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(values))
    with pytest.raises(UserError) as refused:
        read_params(path)
    assert complaint in str(refused.value)


@pytest.mark.parametrize("key", ["rare", "train.lr", "phantom.reserve.rare"])
def test_a_missing_key_is_named(tmp_path: Path, key: str) -> None:
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    *parents, last = key.split(".")
    block = values
    for parent in parents:
        block = block[parent]
    del block[last]
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(values))
    with pytest.raises(UserError, match=rf"{key}: is missing"):
        read_params(path)


def test_no_rare_class_is_enough_to_look_at_data_alone(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load((ROOT / "params.yaml").read_text()) | {"rare": []}))
    assert read_params(path, rare_needed=False).rare == []
    with pytest.raises(UserError, match=r"rare is empty.* e\.g\. rare: \[df\]"):
        read_params(path)


def test_1e_4_without_a_point_is_a_string_to_yaml_and_refused(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text((ROOT / "params.yaml").read_text().replace("  token_lr: 0.005", "  token_lr: 5e-3"))
    with pytest.raises(UserError, match=r"lora_train.token_lr: .*5e-3"):
        read_params(path)


def test_no_try_of_the_study_is_made_twice() -> None:
    tries = read_params(ROOT / "params.yaml").study.tries
    assert all(len({str(changes) for changes in own}) == len(own) for own in tries.values())
