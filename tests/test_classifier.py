"""The classifiers' parts: loss, mixes, exposures, the loop, checked loading, the out-of-fold judge."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import softmax

from stages.classifier import backbone, mix, ood
from stages.classifier.augment import augment, rand_augment
from stages.classifier.fit import Recipe, batches, class_weights, course, fit, focal_loss
from stages.classifier.judge import Judge, load_judge
from stages.classifier.predictor import load
from stages.classifier.regime import adjusted, best_tau, exposures, shift_bias, val_scores
from stages.classifier.start import start_weights
from stages.dataset.groups import group_hash, write_seen
from stages.dataset.table import write_table
from stages.metrics.classification import Truth, scores
from stages.runtime.errors import LawError, UserError
from stages.runtime.files import sha256, write_json
from stages.runtime.params import Augment

NAME, RESNET = "mobilenetv3_small_050", "test_resnet"
PLAIN = Augment(flips=True, rotation=180.0, zoom=0.1, colour=0.1)
SPLIT = pd.DataFrame(
    [(f"nv{i}", "nv", f"gn{i}", "train", i % 2) for i in range(12)]
    + [(f"df{i}", "df", f"gd{i}", "train", i % 2) for i in range(3)]
    + [("t0", "df", "gt", "test", pd.NA)],
    columns=["id", "label", "group", "split", "fold"],
)


def two_colours(n: int, size: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """Red and blue squares, told apart by anybody."""
    labels = np.arange(n) % 2
    images = np.zeros((n, size, size, 3), np.uint8)
    images[labels == 0, ..., 0] = 200
    images[labels == 1, ..., 2] = 200
    images += np.random.default_rng(0).integers(0, 50, images.shape, dtype=np.uint8)  # normalisation needs some variance
    return images, labels.astype(np.int64)


def recipe(**changes: object) -> Recipe:
    values = {"steps": 6, "batch": 8, "lr": 0.003, "weight_decay": 0.01, "augment": PLAIN, "seed": 1} | changes
    return Recipe(**values)  # type: ignore[arg-type]


def test_focal_loss_with_gamma_zero_is_weighted_cross_entropy() -> None:
    logits, labels, w = torch.randn(20, 3), torch.randint(3, (20,)), torch.tensor([0.2, 1.0, 3.0])
    assert torch.allclose(focal_loss(logits, labels, 0.0, w[labels]), F.cross_entropy(logits, labels, weight=w))
    assert focal_loss(logits, labels, 2.0) < focal_loss(logits, labels, 0.0)


def test_class_weights_are_inverse_frequencies_and_none_without_power() -> None:
    labels = np.array([0] * 8 + [1] * 2)
    assert class_weights(labels, 2, 0.0) is None
    assert class_weights(labels, 2, 1.0) == pytest.approx((10 / 16, 10 / 4))


@given(n=st.integers(1, 70), steps=st.integers(1, 12), batch=st.integers(1, 33))
@settings(max_examples=40, deadline=None)
def test_batches_show_every_image_about_equally_often(n: int, steps: int, batch: int) -> None:
    got = batches(n, steps, batch, torch.Generator().manual_seed(0))
    assert [len(b) for b in got] == [batch] * steps
    counts = np.bincount(torch.cat(got).numpy(), minlength=n)
    assert counts.max() - counts.min() <= 1


def test_augmentation_keeps_range_depends_on_its_generator_alone_and_leaves_no_black_corner() -> None:
    images = torch.rand(4, 3, 32, 32) * 0.5 + 0.5
    a, b = (augment(images, PLAIN, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(a, b) and a.min() > 0.3 and a.max() <= 1
    u8 = (images * 255).byte()
    c, d = (rand_augment(u8, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(c, d) and c.dtype == torch.uint8 and not torch.equal(c, u8)


def test_training_learns_repeats_itself_and_keeps_the_best_checkpoint() -> None:
    images, labels = two_colours(24)
    states = []
    for _ in range(2):
        model = backbone.build("resnet10t", 2, seed=5)
        fit(model, images, labels, recipe(steps=40))
        states.append(model.state_dict())
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])
    assert (backbone.logits(model, images).argmax(1) == labels).mean() > 0.9
    values = iter([0.1, 0.9, 0.5])
    assert fit(backbone.build(NAME, 2), images, labels, recipe(checkpoints=3), score=lambda _: next(values)) == 4


def test_an_unknown_backbone_and_weights_that_do_not_fit_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a timm model"):
        backbone.build("mobilenet_v9", 2)
    backbone.save(backbone.build(NAME, 5), tmp_path / backbone.WEIGHTS, half=True)
    backbone.build(NAME, 3, tmp_path)
    with pytest.raises((UserError, RuntimeError)):
        backbone.build("resnet10t", 3, tmp_path)


def synthetic(n: int) -> pd.DataFrame:
    return pd.DataFrame({"id": [f"syn-df-{i}" for i in range(n)], "label": "df", "p": np.linspace(0.2, 0.9, n), "image": [b""] * n})


def test_each_seed_draws_its_own_synthetic_images_and_synth_drops_the_real_rare_ones() -> None:
    combined = mix.build("combined", SPLIT, ["df"], [1, 2], 4, synthetic(8))
    assert not set(combined.query("seed == 1 and kind == 'synthetic'")["id"]) & set(combined.query("seed == 2 and kind == 'synthetic'")["id"])
    counts = combined[combined["seed"] == 1].groupby(["label", "kind"]).size().to_dict()
    assert counts == {("df", "real"): 3, ("df", "synthetic"): 4, ("nv", "real"): 12}
    synth = mix.build("synth", SPLIT, ["df"], [1, 2], 4, synthetic(8))
    assert set(synth.loc[synth["label"] == "df", "kind"]) == {"synthetic"}
    assert not set(synth["id"]) & {"t0"}


def test_easy_and_hard_take_the_images_the_judge_is_surest_and_least_sure_of_and_deal_them_out() -> None:
    for select, chosen in (("easy", {4, 5, 6, 7, 8, 9}), ("hard", {0, 1, 2, 3, 4, 5})):
        rows = mix.build("combined", SPLIT, ["df"], [1, 2], 3, synthetic(10), select).query("kind == 'synthetic'")  # type: ignore[arg-type]
        assert {int(i.removeprefix("syn-df-")) for i in rows["id"]} == chosen and rows["id"].is_unique
        by_seed = [{int(i.removeprefix("syn-df-")) for i in rows.loc[rows["seed"] == s, "id"]} for s in (1, 2)]
        assert abs(sum(by_seed[0]) - sum(by_seed[1])) == 3, "dealt in turn: neither seed gets the better half"


def test_without_the_filter_each_slot_gives_its_first_finite_image(tmp_path: Path) -> None:
    rows = [  # slot, attempt, accepted, finite
        (0, 0, False, True), (0, 1, True, True), (1, 0, True, True), (2, 0, False, False), (2, 1, False, True)
    ]  # fmt: skip
    table = pd.DataFrame(
        [
            {
                "id": f"s{slot}a{attempt}",
                "label": "df",
                "accepted": ok,
                "slot": slot,
                "attempt": attempt,
                "p_df": 0.5 if slot else 0.3,
                "p_nv": 0.4,
                "image": b"x" if there else None,
            }
            for slot, attempt, ok, there in rows
        ]
    )
    write_table(tmp_path / "df/part-0.parquet", table)
    assert sorted(mix.read_synthetic(tmp_path, ["df"], SPLIT, "off")["id"]) == ["s0a0", "s1a0", "s2a1"]
    assert sorted(mix.read_synthetic(tmp_path, ["df"], SPLIT, "random")["id"]) == ["s0a1", "s1a0"]
    assert mix.read_synthetic(tmp_path, ["df"], SPLIT, "hard")["id"].tolist() == ["s1a0"], "hard, but the judge finds nothing more likely"


def with_oracle(n: int) -> pd.DataFrame:
    """SPLIT with `n` images of df in the part `oracle`."""
    fresh = pd.DataFrame([(f"o{i}", "df", f"go{i}", "oracle", pd.NA) for i in range(n)], columns=SPLIT.columns)
    return pd.concat([SPLIT, fresh], ignore_index=True)


@given(n=st.integers(3, 14), seeds=st.integers(1, 5))
@settings(max_examples=25, deadline=None)
def test_the_oracle_has_fresh_images_in_place_of_synthetic_ones_never_one_twice_in_a_seed(n: int, seeds: int) -> None:
    rows = mix.build("oracle", with_oracle(n), ["df"], list(range(seeds)), 3).query("kind == 'oracle'")
    assert (rows.groupby("seed")["id"].nunique() == 3).all() and len(rows) == 3 * seeds
    assert rows["id"].is_unique or n < 3 * seeds, "disjoint while there are enough"
    assert set(rows["label"]) == {"df"} and rows["id"].str.startswith("o").all()


def test_data_without_enough_fresh_images_have_no_oracle() -> None:
    assert mix.oracle_wants(with_oracle(3), ["df"], 3) is None
    assert "df has 2" in str(mix.oracle_wants(with_oracle(2), ["df"], 3)) and "df has 0" in str(mix.oracle_wants(SPLIT, ["df"], 3))


def test_the_curriculum_is_synth_first_and_real_afterwards_in_as_many_steps() -> None:
    rows = mix.build("curriculum", SPLIT, ["df"], [1], 4, synthetic(4))
    for phase, regime, given_images in ((1, "synth", synthetic(4)), (2, "real", None)):
        alone = mix.build(regime, SPLIT, ["df"], [1], 4, given_images)
        assert set(rows.loc[rows["phase"] == phase, "id"]) == set(alone["id"])
    phases, plan = rows["phase"].to_numpy(np.int64), recipe(steps=9, batch=5, first=0.5)
    planned = course(phases, plan, torch.Generator().manual_seed(1))
    assert [len(b) for b in planned] == [5] * 9
    assert [set(phases[b.numpy()]) for b in planned] == [{1}] * 4 + [{2}] * 5
    labels = np.asarray(rows["label"].map({"df": 0, "nv": 1}), np.int64)
    shown = exposures(labels, rows["kind"].to_numpy(str), phases, ["df", "nv"], plan)
    assert sum(sum(kinds.values()) for kinds in shown.values()) == 45 and shown["nv"]["synthetic"] == 0 < shown["df"]["synthetic"] < 20


def test_weights_of_rows_change_what_is_learned_and_equal_ones_do_not() -> None:
    logits, targets = torch.randn(20, 3), torch.randint(3, (20,))
    assert torch.allclose(focal_loss(logits, targets, 1.0, torch.full((20,), 3.0)), focal_loss(logits, targets, 1.0))
    images, labels = two_colours(12)
    leaning = []
    for favoured in (0, 1):
        model = backbone.build(NAME, 2, seed=5)
        fit(model, images, labels, recipe(), weights=np.where(labels == favoured, 50.0, 1.0))
        leaning.append(float(np.diff(backbone.logits(model, images)).mean()))
    assert leaning[0] < leaning[1], "the model leans to the class whose images weigh more"


def test_frozen_stages_keep_their_weights_and_their_statistics_and_the_others_learn(tmp_path: Path) -> None:
    backbone.save(backbone.build(RESNET, 2, seed=5), tmp_path / backbone.WEIGHTS)
    images, labels = two_colours(12)
    model = backbone.build(RESNET, 2, tmp_path, frozen_stages=2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fit(model, images, labels, recipe(checkpoints=2), score=lambda m: float(backbone.logits(m, images).sum()))  # which puts it in evaluation mode
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    early = {name for name in before if name.startswith(("conv1", "bn1", "layer1"))}
    assert early and not changed & early
    assert {"layer2.0.conv1.weight", "layer2.0.bn1.running_mean", "fc.weight"} <= changed, "the statistics of what learns go with it"


def test_stages_that_were_never_learned_and_all_stages_cannot_be_frozen(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="random weights"):
        backbone.build(RESNET, 2, frozen_stages=1)
    backbone.save(backbone.build(RESNET, 2), tmp_path / backbone.WEIGHTS)
    assert any(p.requires_grad for p in backbone.build(RESNET, 2, tmp_path, frozen_stages=4).layer4.parameters())
    with pytest.raises(UserError, match="5 stages"):
        backbone.build(RESNET, 2, tmp_path, frozen_stages=5)


def test_logit_adjustment_of_a_saved_model_takes_the_prior_off_its_bias() -> None:
    model = backbone.build(NAME, 2).eval()
    images, _ = two_colours(4)
    before = backbone.logits(model, images)
    shift_bias(model, np.array([0.9, 0.1]), tau=2.0)
    assert np.allclose(backbone.logits(model, images) - before, -2 * np.log([0.9, 0.1]), atol=1e-5)


def test_the_tau_that_val_chooses_undoes_the_prior_that_training_gave() -> None:
    rng = np.random.default_rng(0)
    labels, prior = np.repeat([0, 1, 2], 200), np.array([0.9, 0.05, 0.05])
    fair = rng.normal(size=(600, 3)).astype(np.float32) + 2.0 * np.eye(3, dtype=np.float32)[labels]
    biased = adjusted(fair, prior, -1.0)
    taus = [2.0, 0.5, 1.0, 0.0, 1.5]
    assert best_tau(biased, labels, [1, 2], prior, taus) == 1.0 and best_tau(fair, labels, [1, 2], prior, taus) == 0.0
    assert best_tau(fair, labels, [1, 2], np.full(3, 1 / 3), taus) == 0.0, "the least of equals"
    assert np.allclose(adjusted(biased, prior, 1.0), fair, atol=1e-5)


def test_scores_on_val_are_those_of_evaluate() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 60)
    logits = rng.normal(size=(60, 3)) + np.eye(3)[labels]
    expected = scores(softmax(logits, axis=1), Truth(labels, np.arange(60), ["a", "b", "c"], [0, 2]))
    assert val_scores(logits, labels, [0, 2]) == {key: pytest.approx(expected[key], abs=1e-6) for key in ("macro_f1", "rare_f1", "rare_ap")}


def test_duplicate_repeats_real_rare_images_evenly_to_the_count_of_combined() -> None:
    rows = mix.build("duplicate", SPLIT, ["df"], [7], 4)
    counts = rows.loc[rows["label"] == "df", "id"].value_counts()
    assert counts.sum() == 3 + 4 and counts.max() - counts.min() == 1
    assert set(rows["kind"]) == {"real"}


@pytest.mark.parametrize(("regime", "phase"), [("combined", 1), ("curriculum", 2)])
def test_repeats_of_real_rare_images_join_the_synthetic_ones_as_the_control_has_them(regime: str, phase: int) -> None:
    plain, rows = (mix.build(regime, SPLIT, ["df"], [7], 4, synthetic(4), repeats=repeats) for repeats in (0, 4))
    columns = ["id", "label", "kind"]
    added = rows.merge(plain.drop_duplicates(), how="left", indicator=True).query("_merge == 'both'")
    assert len(added) == len(rows) == len(plain) + 4, "nothing new, but four rows more"
    again = rows.query("label == 'df' and kind == 'real'")
    assert set(again["phase"]) == {phase}
    control = mix.build("duplicate", SPLIT, ["df"], [7], 4).query("label == 'df'")
    assert sorted(map(tuple, again[columns].to_numpy())) == sorted(map(tuple, control[columns].to_numpy()))


def test_mixes_refuse_too_few_synthetic_images_and_missing_ones() -> None:
    with pytest.raises(UserError, match="need 8 accepted synthetic images, there are 7"):
        mix.build("combined", SPLIT, ["df"], [1, 2], 4, synthetic(7))
    with pytest.raises(UserError, match="needs --synthetic"):
        mix.build("combined", SPLIT, ["df"], [1], 4)


def weights(folder: Path, keys: list[str]) -> dict[str, dict[str, str]]:
    out = {}
    for k in keys:
        backbone.save(backbone.build(NAME, 2, seed=int(k)), folder / f"seed{k}.safetensors", half=True)
        out[k] = {"file": f"seed{k}.safetensors", "sha256": sha256(folder / f"seed{k}.safetensors")}
    return out


def model_folder(folder: Path, groups: list[str]) -> Path:
    folder.mkdir()
    write_seen(folder, [group_hash(g) for g in groups])
    info = {
        "classes": ["df", "nv"], "backbone": NAME, "seeds": [1, 2], "transform": {"size": 32}, "temperature": {"1": 1.0, "2": 2.0},
        "ensemble_temperature": 0.5,
        "bias": {"df": 1.0, "nv": 0.0},
        "weights": weights(folder, ["1", "2"]), "groups_sha256": sha256(folder / "groups_seen.txt"),
    }  # fmt: skip
    write_json(folder / "model.json", info)
    return folder


def test_the_ensemble_is_the_mean_of_tempered_members(tmp_path: Path) -> None:
    predictor = load(model_folder(tmp_path / "m", ["gn1"]), SPLIT)
    images, _ = two_colours(4)
    members = predictor.members(images)
    assert members.shape == (2, 4, 2) and np.allclose(members.sum(-1), 1)
    odds = members.mean(0)[:, 0] / members.mean(0)[:, 1]
    assert np.allclose(predictor.probabilities(images)[:, 0], np.e * odds**2 / (1 + np.e * odds**2))


def test_a_tampered_model_and_one_that_saw_a_test_lesion_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LawError, match="gt"):
        load(model_folder(tmp_path / "saw", ["gt"]), SPLIT)
    folder = model_folder(tmp_path / "m", ["gn1"])
    write_seen(folder, [])
    with pytest.raises(LawError, match="groups_seen"):
        load(folder, SPLIT)
    folder = model_folder(tmp_path / "n", ["gn1"])
    path = folder / "seed2.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(LawError, match=r"seed2\.safetensors"):
        load(folder)


def described(model: torch.nn.Module, seed: int) -> tuple[NDArray[np.float64], NDArray[np.uint8], NDArray[np.int64]]:
    """Texture, pixels and labels of noise."""
    pixels = np.random.default_rng(seed).integers(0, 255, (20, 32, 32, 3), np.uint8)
    return backbone.texture(model, pixels), pixels, np.repeat([0, 1], 10)


def test_the_judge_of_an_image_never_saw_its_source_lesion(tmp_path: Path) -> None:
    models = [backbone.build(NAME, 2, seed=k) for k in range(2)]
    known = [ood.learn(*described(m, 40 + k), 2) for k, m in enumerate(models)]
    limits = np.ones((len(ood.VIEWS), 2))
    judge = Judge(["df", "nv"], 0.5, models, known, limits, False)
    images, _ = two_colours(3)
    images[:] = np.random.default_rng(0).integers(0, 255, images.shape)
    single = [Judge(["df", "nv"], 0.5, [m], [k], limits, False) for m, k in zip(models, known, strict=True)]
    alone = [one.probabilities(images) for one in single]
    got = judge.probabilities(images, np.array([1, -1, 0]))
    far, apart = judge.excess(images, "nv", np.array([1, -1, 0])), [one.excess(images, "nv") for one in single]
    assert far[0] == apart[1][0] and far[2] == apart[0][2] and apart[0][1] != apart[1][1]
    assert min(apart[0][1], apart[1][1]) <= far[1] <= max(apart[0][1], apart[1][1]) * 1.001
    assert np.allclose(got[0], alone[1][0]) and np.allclose(got[1], (alone[0][1] + alone[1][1]) / 2) and np.allclose(got[2], alone[0][2])
    write_seen(tmp_path, [group_hash("gt")])
    write_json(tmp_path / "judge.json", {"classes": ["df", "nv"], "backbone": NAME, "accept": 0.5, "weights": weights(tmp_path, ["0"])})
    with pytest.raises(LawError, match="judge"):
        load_judge(tmp_path, SPLIT)


def test_starting_weights_that_changed_are_refused(tmp_path: Path) -> None:
    backbone.save(backbone.build(NAME, 2), tmp_path / "body" / backbone.WEIGHTS)
    info = {
        "backbone": str(tmp_path / "body"),
        "backbone_name": NAME,
        "backbone_hash": sha256(tmp_path / "body" / backbone.WEIGHTS),
        "trained": False,
    }
    write_json(tmp_path / "base.json", info)
    assert start_weights(tmp_path, NAME) == tmp_path / "body"
    assert start_weights(tmp_path, "resnet18") is None
    write_json(tmp_path / "base.json", info | {"backbone_hash": "0"})
    with pytest.raises(LawError, match="backbone"):
        start_weights(tmp_path, NAME)
