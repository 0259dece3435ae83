"""Stage evaluate from end to end on models that need no training: its files, and every law that stops it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from numpy.typing import NDArray

from stages import evaluate, summary
from stages.classifier import mix
from stages.classifier.predictor import Predictor
from stages.dataset.card import read_card
from stages.dataset.groups import group_hash, write_seen
from stages.dataset.table import write_table
from stages.imaging.refining import encode_png
from stages.metrics.report import candidate_how
from stages.runtime.errors import LawError, UserError
from stages.runtime.files import read_json, sha256, sha256_folder, write_json
from stages.runtime.params import REGIMES, read_params
from stages.train import describe

ROOT = Path(__file__).parents[1]
CLASSES = ["df", "nv", "vasc"]
RARE = ["df", "vasc"]
SIZE = 8
COUNTS = {"train": 4, "val": 2, "cal": 2, "test": 32}
SEEDS = [1, 2, 3, 4, 5]


class Scripted(Predictor):
    """Logits from what is drawn into the image: red holds the class; `skill` by regime, noise by seed."""

    def __init__(self, info: dict[str, Any]) -> None:
        super().__init__(info, {})

    def logits(self, images: NDArray[np.uint8], seeds: Sequence[int] | None = None) -> NDArray[np.float32]:
        chosen = self.seeds if seeds is None else list(seeds)
        hot = np.eye(len(self.classes))[images[:, 0, 0, 0] // 100]
        noise = [np.random.default_rng([s, *self.info["regime"].encode()]).normal(size=hot.shape) for s in chosen]
        return (np.stack(noise) + self.info["skill"] * hot).astype(np.float32)


def picture(label: int, number: int) -> bytes:
    """An image whose red channel tells its class and whose other pixels are its own."""
    pixels = np.random.default_rng([label, number]).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    pixels[0, 0, 0] = label * 100
    return encode_png(pixels)


class Workplace:
    """A repository with everything that evaluate reads."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.models, self.synthetic, self.report = root / "models", root / "synthetic", root / "report"
        card = yaml.safe_load((ROOT / "data/phantom.yaml").read_text())
        card["classes"] = {c: card["classes"][c] for c in CLASSES}
        card["prompts"] = {key: ["a drawing of {title}"] for key in ["base", *CLASSES]}
        card["layout"]["labels"] = {c: c for c in CLASSES}
        card["symptoms"], card["attributes"] = {}, {"sex": "sex"}
        (root / "card.yaml").write_text(yaml.safe_dump(card))
        params = yaml.safe_load((ROOT / "params.yaml").read_text())
        params["rare"], params["evaluate"]["bootstrap"] = RARE, 200
        self.write_params(params)
        self._data()
        self._models()

    def write_params(self, params: dict[str, Any]) -> None:
        self.params = params
        (self.root / "params.yaml").write_text(yaml.safe_dump(params))

    def _data(self) -> None:
        rows: list[dict[str, Any]] = []
        for part, count in COUNTS.items():
            for label, name in enumerate(CLASSES):
                for k in range(count):
                    key = f"{part}-{name}-{k}"
                    image = picture(label, len(rows))
                    facts = {"split": part, "sex": "fm"[k % 2], "sha256": f"file-{key}"}
                    rows.append({"id": key, "label": name, "group": f"g-{key}", **facts, "image": image})
        table = pd.DataFrame(rows)
        write_table(self.root / "refined" / "part.parquet", table.drop(columns="split"))
        split = table[["id", "label", "group", "split"]].copy()
        split["fold"] = (split["split"] == "train").map({True: "0", False: ""})
        split.to_csv(self.root / "split.csv", index=False)
        for label, disease in enumerate(CLASSES):
            if disease in RARE:
                made = [{"id": f"syn-{disease}-{k}", "label": disease, "accepted": k < 6, "reason": "" if k < 6 else "judge",
                         "image": picture(label, 10_000 + k)} for k in range(8)]  # fmt: skip
                write_table(self.synthetic / disease / "part.parquet", pd.DataFrame(made))
        write_json(self.report / "data.json", {"warnings": ["one site only"], "shortcut": {}})

    def _models(self) -> None:
        groups = [group_hash(f"g-train-{c}-{k}") for c in CLASSES for k in range(COUNTS["train"])]
        for folder in ("base", "judge", *(f"lora/{d}" for d in RARE), *REGIMES):
            write_seen(self.models / folder, [] if folder == "base" else groups)
        write_json(self.models / "base" / "base.json", {"source": "models/base", "known_groups": True, "hash": "h"})
        write_json(self.models / "judge" / "judge.json", {"weights": {"0": {"file": "fold0.safetensors", "sha256": "judge"}}})
        for regime in REGIMES:
            added = {kind: 10 * (regime in by) for kind, by in (("synthetic", mix.SYNTHETIC), ("oracle", (mix.ORACLE,)))}
            shown = {c: {"real": 100} | {kind: n if c in RARE else 0 for kind, n in added.items()} for c in CLASSES}
            shown["nv"]["real"] = 640 - sum(sum(kinds.values()) for c, kinds in shown.items() if c != "nv")
            aa = [6, 7, 8, 9, 10] if regime == "real" else []
            everyone = [str(s) for s in SEEDS + aa]
            quantiles: dict[str, float | None] = dict.fromkeys(CLASSES, 0.9)
            info = {
                "regime": regime, "dataset": "phantom", "phantom": True, "classes": CLASSES, "rare": RARE, "backbone": "tiny",
                "transform": {"size": SIZE}, "seeds": SEEDS, "aa_seeds": aa, "base_hash": "h", "split_sha256": sha256(self.root / "split.csv"),
                "weights": {s: {"file": f"seed{s}.safetensors", "sha256": f"{regime}{s}"} for s in everyone},
                "training": {"steps": 10, "batch": 64, "lr": 0.002, "start_sha256": "s", "class_weighting": 0.5 * (regime == "weighted"),
                             "randaugment": regime == "randaugment", "real_weight": 1.0, "repeats": 0, "logit_tau": 0.0, "select": "random",
                             "selected_step": dict.fromkeys(everyone, 10)},
                "exposures": dict.fromkeys(everyone, shown), "temperature": dict.fromkeys(everyone, 1.1),
                "ensemble_temperature": 1.0,
                "bias": dict.fromkeys(CLASSES, 0.0),
                "prior_train": {"df": 0.1, "nv": 0.8, "vasc": 0.1}, "val_tau": dict.fromkeys(everyone, 1.0),
                "thresholds": {d: {"present": 0.5, "absent": 0.2, "n_positive": 2, "n_negative": 4} for d in RARE},
                "conformal": {"0.90": quantiles, "0.95": {**quantiles, "df": None}}, "skill": 1.0,
            }  # fmt: skip
            write_json(self.models / regime / "model.json", info)

    def change(self, regime: str, **values: Any) -> None:
        """Overwrite keys of a regime's model.json."""
        path = self.models / regime / "model.json"
        write_json(path, read_json(path) | values)

    def run(self, monkeypatch: pytest.MonkeyPatch) -> Path:
        """Run the stage; the report folder."""
        monkeypatch.chdir(self.root)
        monkeypatch.setattr(evaluate, "load", lambda folder, split: Scripted(read_json(Path(folder) / "model.json")))
        monkeypatch.setattr("sys.argv", "evaluate card.yaml refined split.csv models synthetic report --external external".split())
        evaluate.main()
        return self.report


@pytest.fixture
def place(tmp_path: Path) -> Workplace:
    return Workplace(tmp_path)


def test_a_planted_win_from_models_to_words(place: Workplace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    place.change("combined", skill=6.0)
    report = place.run(monkeypatch)
    verdict = read_json(report / "verdict.json")
    assert verdict["helps"] is True and verdict["seeds"] == SEEDS and verdict["n_test_lesions"] == 96 and "external" not in verdict
    assert "no evidence" in (report / "verdict.md").read_text()  # the A/A line
    first = (report / "verdict.md").read_text().splitlines()[0]
    assert first.endswith("synthesis helps") and "no evidence" not in first

    names = {*REGIMES, "logit_adjust"}
    assert {p.stem for p in (report / "metrics").iterdir()} == {p.stem for p in (report / "detail").iterdir()} == names
    flat = read_json(report / "metrics" / "combined.json")
    assert len(flat) <= 12 and all(isinstance(v, int | float) for v in flat.values())
    assert {frozenset(read_json(p)) for p in (report / "metrics").iterdir()} == {frozenset(flat)}
    assert read_json(report / "metrics.json") == flat

    detail = read_json(report / "detail" / "combined.json")
    assert detail["generator"]["df"] == {"attempts": 8, "accepted": 6, "rejected": {"judge": 2}}
    assert detail["classes"]["df"]["n_lesions"] == 32 and np.sum(detail["confusion"]["counts"]) == 96
    assert detail["subgroups"]["sex"]["f"]["accuracy"]["n"] == 48 and detail["subgroups"]["sex"]["f"]["recall"]["df"]["value"] == "too few"
    assert "generator" not in read_json(report / "detail" / "real.json") and "thresholds" not in read_json(report / "detail" / "logit_adjust.json")
    assert {p.name for p in (report / "figures").iterdir()} == {f"{f}.png" for f in ("verdict", "regimes", "roc", "pr", "reliability", "confusion")}
    assert {p.name for p in (report / "plots").iterdir()} == {
        "roc.csv",
        "pr.csv",
        "reliability.csv",
        "confusion.csv",
        "predictions.parquet",
        "contact.png",
    }
    told = pd.read_parquet(report / "plots" / "predictions.parquet")
    assert set(told["regime"]) == names | {"aa"} and set(told.loc[told["regime"] == "aa", "seed"]) == {6, 7, 8, 9, 10}
    assert told[[f"p_{c}" for c in CLASSES]].sum(axis=1).round(6).eq(1).all() and len(told) == 96 * 5 * (len(names) + 1)
    assert set(pd.read_csv(report / "plots" / "roc.csv")["regime"]) == names
    *overlays, confusion, sheet = yaml.safe_load((ROOT / "dvc.yaml").read_text())["plots"]
    for plot in (*overlays, confusion):  # dvc.yaml names files and columns that are there
        (shape,) = plot.values()
        ((path, columns),) = shape["y"].items()
        table = pd.read_csv(report / "plots" / Path(path).name)
        assert {shape["x"], *([columns] if isinstance(columns, str) else columns)} <= set(table)
        assert plot is confusion or (shape["template"] == "regimes" and set(table["regime"]) == names)
    assert set(columns) == names and Path(sheet).name == "contact.png"

    monkeypatch.setattr("sys.argv", ["summary", str(report)])
    summary.main()
    said = capsys.readouterr().out
    assert "synthesis helps" in said and all(name in said for name in names) and "combined minus duplicate" in said


def test_no_gain_is_no_evidence_and_a_second_run_gives_the_same_bytes(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    place.params["evaluate"]["regime"] = "logit_adjust"
    place.write_params(place.params)
    report = place.run(monkeypatch)
    assert read_json(report / "metrics.json") == read_json(report / "metrics" / "logit_adjust.json")
    assert read_json(report / "verdict.json")["helps"] is False
    assert (report / "verdict.md").read_text().splitlines()[0].endswith("no evidence that synthesis helps")
    before = sha256_folder(report)
    place.run(monkeypatch)
    assert sha256_folder(report) == before


def test_logit_adjustment_takes_the_prior_off(place: Workplace) -> None:
    info = read_json(place.models / "real" / "model.json")
    images = np.stack([np.full((SIZE, SIZE, 3), 100 * c, np.uint8) for c in range(3)])
    found = evaluate.predict({"real": Scripted(info)}, images, tau=1.0, threads=1)
    odds = np.log(found["logit_adjust"] / found["real"]) * 1.1
    expected = -np.log(np.array([0.1, 0.8, 0.1]))
    np.testing.assert_allclose(odds - odds[..., :1], np.broadcast_to(expected - expected[0], odds.shape), atol=1e-5)
    assert found["aa"].shape == found["real"].shape == (5, 3, 3)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [("candidate", "duplicate", "evaluate.candidate"), ("candidate", "oracle", "evaluate.candidate"), ("regime", "oracel", "evaluate.regime")],
)
def test_a_control_or_the_oracle_is_no_candidate(place: Workplace, monkeypatch: pytest.MonkeyPatch, key: str, value: str, message: str) -> None:
    place.params["evaluate"][key] = value
    place.write_params(place.params)
    with pytest.raises(UserError, match=message):
        place.run(monkeypatch)


@pytest.mark.parametrize(
    ("training", "message"),
    [
        ({"steps": 20}, "unequal steps"),
        ({"lr": 0.01}, "unequal lr"),
        ({"frozen_stages": 3}, "unequal frozen_stages"),
        ({"start_sha256": "other"}, "unequal start_sha256"),
    ],
)
def test_unequal_training_stops(place: Workplace, monkeypatch: pytest.MonkeyPatch, training: dict[str, Any], message: str) -> None:
    info = read_json(place.models / "combined" / "model.json")
    place.change("combined", training=info["training"] | training)
    with pytest.raises(LawError, match=message):
        place.run(monkeypatch)


def test_more_exposures_than_the_budget_stop(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = read_json(place.models / "combined" / "model.json")["exposures"]
    shown["3"]["df"]["synthetic"] += 64
    place.change("combined", exposures=shown)
    with pytest.raises(LawError, match="unequal steps: combined, seed 3"):
        place.run(monkeypatch)


def test_a_control_that_saw_synthetic_images_stops(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = read_json(place.models / "duplicate" / "model.json")["exposures"]
    shown["1"]["df"]["synthetic"], shown["1"]["df"]["real"] = 10, shown["1"]["df"]["real"] - 10
    place.change("duplicate", exposures=shown)
    with pytest.raises(LawError, match="duplicate is a control"):
        place.run(monkeypatch)


def test_a_candidate_that_saw_images_of_the_oracle_stops(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = read_json(place.models / "combined" / "model.json")["exposures"]
    shown["1"]["df"]["oracle"], shown["1"]["df"]["real"] = 10, shown["1"]["df"]["real"] - 10
    place.change("combined", exposures=shown)
    with pytest.raises(LawError, match="combined was shown images of a kind that is not its own"):
        place.run(monkeypatch)


def leave_out(place: Workplace, **reasons: str) -> None:
    """Make regimes as stage `train` leaves those it does not train."""
    for regime, reason in reasons.items():
        (place.models / regime / "model.json").unlink()
        write_json(place.models / regime / "absent.json", {"regime": regime, "reason": reason})


def test_the_oracle_is_the_ceiling_and_the_candidate_may_be_the_curriculum(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    info = read_json(place.models / "curriculum" / "model.json")
    place.change("curriculum", skill=2.0, training=info["training"] | {"class_weighting": 0.5, "select": "hard", "first": 0.5})
    place.change("oracle", skill=5.0)
    place.params["evaluate"]["candidate"] = "curriculum"
    place.write_params(place.params)
    report = place.run(monkeypatch)
    share = read_json(report / "verdict.json")["oracle_share"]
    assert all(0.3 < entry["low"] <= entry["value"] <= entry["high"] < 1 for entry in share.values())
    text = (report / "verdict.md").read_text()
    assert "Candidate `curriculum`, with class weights in its loss (power 0.5), its synthetic images chosen as `hard`, 5 seeds" in text
    assert "that `curriculum` recovers: rare F1 " in text


@pytest.mark.parametrize("regime", REGIMES)
def test_of_every_regime_there_are_words_for_what_sets_it_apart(regime: str) -> None:
    params = read_params(ROOT / "params.yaml")
    training = describe(params, read_card(ROOT / "data/phantom.yaml"), regime, None)["training"]
    assert "logit adjustment (tau 0.5)" in candidate_how(training | {"logit_tau": 0.5})


def test_data_without_an_oracle_and_controls_that_were_left_out_end_well_and_say_so(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    leave_out(place, oracle="no images in split `oracle`", weighted="train_weighted.enabled is false")
    place.change("combined", skill=6.0)
    report = place.run(monkeypatch)
    verdict, text = read_json(report / "verdict.json"), (report / "verdict.md").read_text()
    assert verdict["oracle_share"] is None and "No oracle: no images in split `oracle`" in text
    assert verdict["controls"]["weighted"] is None and set(verdict["controls"]) == {"real", "weighted", "duplicate", "randaugment", "logit_adjust"}
    assert text.splitlines()[0].endswith("synthesis helps (not compared with weighted)") and "Not trained: weighted" in text
    assert not (report / "metrics/oracle.json").exists()
    assert set(pd.read_csv(report / "plots" / "confusion.csv")["oracle"]) == {"not trained"}


def test_a_candidate_that_was_not_trained_is_named(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    leave_out(place, combined="train_combined.enabled is false")
    with pytest.raises(UserError, match="combined was not trained"):
        place.run(monkeypatch)


def test_unequal_seeds_stop(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    place.change("weighted", seeds=[1, 2, 3, 4])
    with pytest.raises(LawError, match="unequal seeds"):
        place.run(monkeypatch)


def test_a_judge_that_is_evaluated_stops(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    write_json(place.models / "judge" / "judge.json", {"weights": {"0": {"file": "fold0.safetensors", "sha256": "combined3"}}})
    with pytest.raises(LawError, match="evaluated, as combined, seed 3"):
        place.run(monkeypatch)


def test_a_model_of_another_split_stops(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    place.change("randaugment", split_sha256="0" * 64)
    with pytest.raises(LawError, match="randaugment was trained on another split"):
        place.run(monkeypatch)


@pytest.mark.parametrize("part", ["val", "cal", "test"])
@pytest.mark.parametrize("image", ["syn-df-0", "syn-df-7"])  # accepted or rejected
def test_a_synthetic_row_in_a_sealed_part_stops(place: Workplace, monkeypatch: pytest.MonkeyPatch, part: str, image: str) -> None:
    with open(place.root / "split.csv", "a") as file:
        file.write(f"{image},df,new,{part},\n")
    with pytest.raises(LawError, match=f"synthetic image '{image}' lies in {part}"):
        place.run(monkeypatch)


def test_a_renamed_synthetic_image_in_test_stops(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    made = pd.read_parquet(place.synthetic / "df" / "part.parquet")
    copied = pd.DataFrame([{"id": "x", "label": "df", "group": "gx", "sex": "f", "sha256": "x", "image": made["image"].iloc[0]["bytes"]}])
    write_table(place.root / "refined" / "more.parquet", copied)
    with open(place.root / "split.csv", "a") as file:
        file.write("x,df,gx,test,\n")
    for regime in REGIMES:
        place.change(regime, split_sha256=sha256(place.root / "split.csv"))
    with pytest.raises(LawError, match="pixels of a synthetic image"):
        place.run(monkeypatch)


def test_a_test_image_from_nowhere_stops(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    with open(place.root / "split.csv", "a") as file:
        file.write("stranger,df,new,test,\n")
    with pytest.raises(LawError, match="'stranger' of test is not among the refined images"):
        place.run(monkeypatch)


@pytest.mark.parametrize("folder", ["base", "judge", "lora/df"])
def test_a_base_judge_or_adapter_that_saw_a_test_lesion_stops(place: Workplace, monkeypatch: pytest.MonkeyPatch, folder: str) -> None:
    write_seen(place.models / folder, [group_hash("g-test-nv-0")])
    with pytest.raises(LawError, match="has seen 1 group"):
        place.run(monkeypatch)


def test_laws_come_before_the_test(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    place.change("combined", seeds=[1, 2])
    monkeypatch.setattr(Scripted, "logits", lambda *_: pytest.fail("a test image was shown to a model"))
    with pytest.raises(LawError):
        place.run(monkeypatch)


def test_summary_of_nothing_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="make reproduce"):
        summary.summary(tmp_path)
