"""The map and the similar images: the map lies on the lesion more than chance would, and neither touches the model that predicts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from app import artifacts, explain
from stages.classifier import backbone
from stages.classifier.fit import fit
from stages.classifier.predictor import Predictor
from stages.dataset.table import write_table
from stages.imaging.phantoms import COMMON, FEATURES, draw_lesion, render, rng_for
from stages.imaging.refining import encode_png
from stages.runtime.files import write_text
from tests.test_classifier import recipe, two_colours
from tests.tiny_root import REPOSITORY, SIZE, drawings


def network() -> torch.nn.Module:
    """The shipped backbone with the head that it was trained with: common classes first, then the strengths of features."""
    return backbone.load("test_resnet", len(COMMON) + len(FEATURES), REPOSITORY / "models/base/backbone" / backbone.WEIGHTS)


def test_the_map_s_share_inside_the_lesion_exceeds_the_lesion_s_share_of_the_picture() -> None:
    model, inside, area = network(), [], []
    for label in COMMON:
        for k in range(4):
            drawn = render(draw_lesion(label, rng_for("map", label, str(k))), rng_for("photograph", label, str(k)), SIZE)
            found = explain.heat([model], drawn.pixels, COMMON.index(label))
            assert found.shape == (SIZE, SIZE) and found.min() >= 0 and found.max() <= 1
            inside.append(found[drawn.mask].sum() / max(found.sum(), 1e-9))
            area.append(drawn.mask.mean())
    assert np.mean(inside) > np.mean(area)


@pytest.mark.parametrize("name", ["efficientnet_b0", "resnet18", "resnet50"])
def test_the_backbones_of_gpu_presets_learn_are_saved_and_explained(name: str, tmp_path: Path) -> None:
    images, labels = two_colours(8, SIZE)
    model = backbone.build(name, 2, seed=1)
    fit(model, images, labels, recipe(steps=1, batch=4))
    backbone.save(model, tmp_path / backbone.WEIGHTS)
    again = backbone.load(name, 2, tmp_path / backbone.WEIGHTS)
    assert np.array_equal(backbone.logits(model, images), backbone.logits(again, images))
    assert again.feature_info[backbone.stride8(again)]["reduction"] == 8
    assert np.isfinite(backbone.texture(again, images)).all() and np.isfinite(backbone.embed(again, images)).all()
    found = explain.heat([again], images[0], 1)
    assert found.shape == (SIZE, SIZE) and np.isfinite(found).all() and 0 <= found.min() <= found.max() <= 1
    backbone.build(name, 2, tmp_path, frozen_stages=1)


def test_the_map_leaves_the_model_as_it_was() -> None:
    model = network()
    predictor = Predictor({"classes": list(COMMON), "seeds": [1], "transform": {"size": SIZE}}, {"1": model})
    image = drawings("map", 1)[0][0]
    before = predictor.logits(image[None])
    first, second = (explain.heat(predictor.copies(), image, 0) for _ in range(2))
    assert np.array_equal(first, second)
    assert np.array_equal(predictor.logits(image[None]), before) and not model.layer2._forward_hooks
    assert all(weight.grad is None for weight in model.parameters())


def test_overlay_at_no_strength_is_the_picture() -> None:
    picture = drawings("map", 1)[0][0]
    warmth = np.ones((8, 8), np.float32)
    assert np.array_equal(explain.overlay(picture, warmth, 0.0), picture) and not np.array_equal(explain.overlay(picture, warmth, 0.5), picture)


def test_the_most_similar_training_image_is_the_image_itself_and_one_a_lesion(tmp_path: Path) -> None:
    images, _ = drawings("alike", 1)
    rows = [{"id": f"i{k}", "label": "nv", "group": "one" if k < 2 else f"g{k}", "image": encode_png(image)} for k, image in enumerate(images)]
    write_table(tmp_path / "data/refined/phantom/part.parquet", pd.DataFrame(rows))
    parts = ["train"] * (len(images) - 1) + ["test"]
    lines = [f"i{k},nv,{row['group']},{part},{'0' if part == 'train' else ''}\n" for k, (row, part) in enumerate(zip(rows, parts, strict=True))]
    write_text(tmp_path / "data/splits/phantom.csv", "id,label,group,split,fold\n" + "".join(lines))
    predictor = Predictor({"classes": list(COMMON), "seeds": [1], "transform": {"size": SIZE}}, {"1": network()})
    explainer = explain.Explainer(predictor, artifacts.Place(tmp_path, "phantom", True))
    found = explainer.alike(images[1], 20)
    assert np.array_equal(found[0].picture, images[1]) and found[0].similarity > 0.9999
    assert len(found) == len(images) - 2  # two pictures are of one lesion, one is in test
    assert [one.similarity for one in found] == sorted((one.similarity for one in found), reverse=True)
