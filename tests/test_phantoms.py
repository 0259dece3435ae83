"""The phantoms: frozen, overlapping as designed, and drawn the same whatever draws them."""

from __future__ import annotations

import ast
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.metrics import f1_score, roc_auc_score

from stages import phantom
from stages.dataset.card import read_card
from stages.dataset.groups import SPLITS
from stages.imaging import phantoms
from stages.runtime.errors import UserError
from stages.runtime.params import Phantom, RareCommon, read_params

ROOT = Path(__file__).parents[1]
FROZEN_SOURCE = "20424b1d5e4c602b"
FROZEN_PARAMETERS = "62dac8d7e4d957fd"
FROZEN_PIXELS = "c1213d26eaec1113"
THAW = (
    "the phantoms are frozen, so that they are never tuned until synthesis wins. Only a defect may be mended: then phantom.version goes up, "
    "every result is made anew, reports/experiments.md says so, and this hash follows; so it does when phantom.seed goes up by one because "
    "models or parameters were changed after a test set had been looked at"
)
TINY = Phantom(
    name="tiny", version=phantoms.VERSION, seed=3, size=32, train={"df": 4, "nv": 7}, val=1, cal=2, test=3,
    reserve=RareCommon(rare=2, common=1), oracle=RareCommon(rare=1, common=0),
)  # fmt: skip


def code_of(path: Path) -> str:
    """A module's code without comments, docstrings and layout."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree)


def test_source_is_frozen() -> None:
    found = hashlib.sha256(code_of(ROOT / "stages/imaging/phantoms.py").encode()).hexdigest()[:16]
    assert found == FROZEN_SOURCE, THAW


def test_parameters_are_frozen() -> None:
    block = yaml.safe_load((ROOT / "params.yaml").read_text())["phantom"]
    found = hashlib.sha256(json.dumps(block, sort_keys=True).encode()).hexdigest()[:16]
    assert found == FROZEN_PARAMETERS, THAW


def test_pixels_are_frozen(tmp_path: Path) -> None:
    # In a process of its own: stages/__init__.py fixes the CPU's kernels before numpy loads, which pytest has already done.
    (tmp_path / "images").mkdir()
    code = (
        "import hashlib, sys; from pathlib import Path; from PIL import Image; from stages import phantom; from stages.imaging import phantoms\n"
        "folder = Path(sys.argv[1])\n"
        "draws = [phantom.Draw(s, c, 0, n) for s, n in (('train', 2), ('test', 1)) for c in phantoms.CLASSES]\n"
        "rows = [row for d in draws for row in phantom.draw(folder, 0, 64, d)]\n"
        "pixels = b''.join(Image.open(folder / row['file']).tobytes() for row in rows)\n"
        "print(hashlib.sha256(pixels + repr(rows).encode()).hexdigest()[:16])"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == FROZEN_PIXELS, THAW


def test_a_classifier_given_the_latents_scores_between_085_and_095(capsys: pytest.CaptureFixture[str]) -> None:
    fresh = [phantoms.draw_lesion(c, phantoms.rng_for("latents", c, i)) for c in phantoms.CLASSES for i in range(400)]
    p = read_params(ROOT / "params.yaml").phantom
    keys = [("phantom", p.seed, "test", c, i) for c in phantoms.CLASSES for i in range(p.test)]
    test = [phantoms.draw_lesion(key[3], phantoms.rng_for(*key)) for key in keys]
    model = LinearDiscriminantAnalysis().fit([lesion.latents for lesion in fresh], [lesion.label for lesion in fresh])
    f1 = f1_score([lesion.label for lesion in test], model.predict([lesion.latents for lesion in test]), average="macro")
    with capsys.disabled():
        print(f"\nmacro-F1 on the test lesions of a classifier given the latents: {f1:.3f}")
    assert 0.85 <= f1 <= 0.95


@settings(deadline=None)
@given(
    train=st.dictionaries(st.sampled_from(phantoms.CLASSES), st.integers(1, 60), min_size=1),
    single=st.integers(0, 5),
    seed=st.integers(0, 1000),
)
def test_plan_gives_the_counts_asked_for(train: dict[str, int], single: int, seed: int) -> None:
    p = TINY.model_copy(update={"train": train, "seed": seed, "test": single})
    draws = pd.DataFrame(phantom.plan(p))
    assert not draws.duplicated(["split", "label", "lesion"]).any()
    assert set(draws["split"]) <= set(SPLITS)
    images = draws.groupby(["split", "label"])["images"].sum()
    for label, count in train.items():
        assert images["train", label] == count
        assert images.get(("test", label), 0) == single
        assert images.get(("reserve", label), 0) == (2 if label in phantoms.RARE else 1)
    assert draws.loc[draws["split"] == "train", "images"].between(1, 3).all()
    assert (draws.loc[draws["split"] != "train", "images"] == 1).all()


def test_drawing_does_not_depend_on_the_number_of_processes(tmp_path: Path) -> None:
    tables, pictures = [], []
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        (folder / "images").mkdir(parents=True)
        tables.append(phantom.draw_all(TINY, folder, processes))
        pictures.append({path.name: path.read_bytes() for path in sorted(folder.rglob("*.png"))})
    pd.testing.assert_frame_equal(tables[0], tables[1])
    assert pictures[0] == pictures[1]
    assert len(pictures[0]) == len(tables[0]) == sum(d.images for d in phantom.plan(TINY))


def test_files_and_ids_do_not_give_the_class_away(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    table = phantom.draw_all(TINY, tmp_path, 1)
    assert table["file"].str.fullmatch(r"images/[0-9a-f]{12}\.png").all()
    assert table["lesion_id"].str.fullmatch(r"[0-9a-f]{12}").all()
    assert table.groupby("lesion_id")[["dx", "split", "age", "sex", "site", "skin_tone"]].nunique().eq(1).all(axis=None)
    box = table[["box_x0", "box_y0", "box_x1", "box_y1"]].to_numpy()
    assert (box >= 0).all() and (box <= TINY.size).all() and (box[:, 0] < box[:, 2]).all() and (box[:, 1] < box[:, 3]).all()


def test_images_of_a_lesion_differ_but_their_lesion_is_the_same() -> None:
    lesion = phantoms.draw_lesion("vasc", phantoms.rng_for("a"))
    one, two = (phantoms.render(lesion, phantoms.rng_for("photo", k)) for k in range(2))
    assert (one.pixels != two.pixels).any()
    again = phantoms.render(lesion, phantoms.rng_for("photo", 0))
    assert (one.pixels == again.pixels).all() and (one.mask == again.mask).all() and one.box == again.box


@settings(max_examples=15, deadline=None)
@given(label=st.sampled_from(phantoms.CLASSES), seed=st.integers(0, 10**6), size=st.sampled_from([16, 48, 64]))
def test_render_gives_a_picture_of_the_size_and_the_box_of_its_mask(label: str, seed: int, size: int) -> None:
    photo = phantoms.render(phantoms.draw_lesion(label, phantoms.rng_for(seed)), phantoms.rng_for(seed, 1), size)
    assert photo.pixels.shape == (size, size, 3) and photo.pixels.dtype == np.uint8
    assert photo.pixels.std() > 1
    x0, y0, x1, y1 = photo.box
    rows, columns = np.nonzero(photo.mask)
    assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == (x0, y0, x1, y1)


def test_the_border_does_not_give_a_rare_class_away() -> None:
    def border(label: str) -> list[float]:
        images = (phantoms.render(phantoms.draw_lesion(label, phantoms.rng_for("b", label, i)), phantoms.rng_for(i, label), 32) for i in range(100))
        return [float(np.median(np.concatenate([p.pixels[:2].ravel(), p.pixels[-2:].ravel()]))) for p in images]

    nv = border("nv")
    for label in phantoms.RARE:
        auc = roc_auc_score([0] * 100 + [1] * 100, nv + border(label))
        assert 0.35 < auc < 0.65, (label, auc)  # standard error about 0.04


@pytest.mark.parametrize(
    ("change", "told"),
    [({"version": phantoms.VERSION + 1}, "phantom.version is 2"), ({"train": {"nv": 3, "wart": 1}}, "unknown class.*wart")],
)
def test_plan_refuses_what_the_renderer_does_not_draw(change: dict[str, object], told: str) -> None:
    with pytest.raises(UserError, match=told):
        phantom.plan(TINY.model_copy(update=change))


@pytest.mark.parametrize(("name", "told"), [("smoke", "smoke"), ("proof", "longer run")])
def test_a_preset_s_card_is_the_phantom_card_under_another_name(name: str, told: str) -> None:
    one, other = read_card(ROOT / "data/phantom.yaml"), read_card(ROOT / f"data/{name}.yaml")
    assert other.name == name and told in other.title
    assert other.model_copy(update={"name": one.name, "title": one.title}) == one
