"""A repository in small for tests of the page and of `stages.predict`: card, params, two regimes of an untrained model, reports, lock."""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from PIL import Image

from app.artifacts import dvc_hash
from stages.imaging.phantoms import CLASSES, RARE, draw_lesion, render, rng_for
from stages.runtime.files import read_json, sha256, write_json, write_text

REPOSITORY = Path(__file__).parents[1]
BACKBONE, SHIPPED = "mobilenetv3_small_050", "test_resnet"
SIZE = 64
METRICS = {"accuracy": 0.71, "balanced_accuracy": 0.68, "macro_f1": 0.66, "rare_f1": 0.58, "rare_ap": 0.61, "ece": 0.04}


def phantom_png(label: str = "df", size: int = SIZE) -> bytes:
    """A drawn lesion as PNG bytes."""
    pixels = render(draw_lesion(label, rng_for("tiny", label)), rng_for("photograph", label), size).pixels
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def write_model(folder: Path, regime: str = "combined", dataset: str = "phantom", n_cal: int = 50, shipped: bool = False) -> None:
    """An untrained two-seed model in the format of `stages.train`, or with the body of models/base, where every regime starts (`shipped`);
    `n_cal` lesions a class in its calibration set.
    """
    import timm
    import torch
    from safetensors.torch import save_file

    from stages.classifier import backbone

    folder.mkdir(parents=True)
    weights = {}
    for seed in (1, 2):
        torch.manual_seed(seed)
        if shipped:
            model = backbone.build(SHIPPED, len(CLASSES), REPOSITORY / "models/base/backbone", seed=seed)
        else:
            model = timm.create_model(BACKBONE, num_classes=len(CLASSES))
        torch.nn.init.normal_(model.get_classifier().bias, std=1.5)  # so that classes and seeds differ
        file = f"seed{seed}.safetensors"
        save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / file)
        weights[str(seed)] = {"file": file, "sha256": sha256(folder / file)}
    write_text(folder / "groups_seen.txt", "0123456789abcdef\n")
    share = 1 / len(CLASSES)
    info = {
        "regime": regime,
        "dataset": dataset,
        "phantom": True,
        "classes": list(CLASSES),
        "rare": list(RARE),
        "normal": ["nv"],
        "backbone": SHIPPED if shipped else BACKBONE,
        "transform": {"size": SIZE, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
        "seeds": [1, 2],
        "aa_seeds": [],
        "weights": weights,
        "temperature": {"1": 1.0, "2": 1.3},
        "ensemble_temperature": 1.0,
        "bias": dict.fromkeys(CLASSES, 0.0),
        "thresholds": {d: {"present": 0.4, "absent": 0.1, "n_positive": n_cal, "n_negative": 6 * n_cal} for d in RARE},
        "conformal": {coverage: dict.fromkeys(CLASSES, q if n_cal >= need else None) for coverage, q, need in (("0.90", 0.9, 9), ("0.95", 0.95, 19))},
        "prior_cal": dict.fromkeys(CLASSES, share),
        "prior_train": dict.fromkeys(CLASSES, share),
        "n_cal": dict.fromkeys(CLASSES, n_cal),
        "base_hash": "b" * 64,
        "split_sha256": "c" * 64,
        "mix_sha256": "d" * 64,
        "groups_sha256": sha256(folder / "groups_seen.txt"),
    }
    write_json(folder / "model.json", info)


def drawings(key: str, count: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """`count` drawn lesions a class, (N, SIZE, SIZE, 3), and their class numbers (N,); another `key` gives others."""
    names = [(label, f"{key} {k}") for label in CLASSES for k in range(count)]
    images = [render(draw_lesion(label, rng_for(label, name)), rng_for("photograph", label, name), SIZE).pixels for label, name in names]
    return np.stack(images), np.array([CLASSES.index(label) for label, _ in names], np.int64)


def known_images(networks: dict[int, Any], count: int) -> tuple[dict[int, dict[str, NDArray[np.float32]]], dict[str, Any]]:
    """What `networks` by seed know their images by, and its record, from `count` drawn lesions a class for train and as many for cal."""
    from stages.classifier import backbone, ood

    (train, train_labels), (cal, cal_labels) = drawings("train", count), drawings("cal", count)
    known = {seed: ood.learn(backbone.texture(network, train), train, train_labels, len(CLASSES)) for seed, network in networks.items()}
    distances = [ood.distances(backbone.texture(network, cal), cal, known[seed]) for seed, network in networks.items()]
    return known, ood.fit(np.mean(distances, axis=0), cal, cal_labels, list(CLASSES))


def add_known(folder: Path, count: int) -> None:
    """Give the model of `write_model` its record of known images."""
    from safetensors.numpy import save_file

    from stages.classifier import backbone, ood

    info = read_json(folder / "model.json")
    known, record = known_images({s: backbone.load(info["backbone"], len(CLASSES), folder / f"seed{s}.safetensors") for s in info["seeds"]}, count)
    save_file(ood.flat(known), folder / ood.FILE)
    write_json(folder / "model.json", info | {"ood": {"sha256": sha256(folder / ood.FILE), **record}})


def write_reports(folder: Path) -> None:
    """Metrics of two regimes, what answers were worth in one, a verdict with a picture, and two figures."""
    for shift, regime in enumerate(("combined", "real")):
        write_json(folder / "metrics" / f"{regime}.json", {k: v - 0.03 * shift for k, v in METRICS.items()})
    share = {"value": 0.8, "low": 0.7, "high": 0.9, "n": 60}
    thresholds: dict[str, dict[str, Any]] = {d: dict.fromkeys(("sensitivity", "specificity", "missed", "ruled_out"), share) for d in RARE}
    thresholds["vasc"] = thresholds["vasc"] | {"sensitivity": {"value": "too few", "n": 12}}
    write_json(folder / "detail" / "combined.json", {"thresholds": thresholds, "refused": {c: share | {"value": 0.02, "low": 0.0} for c in CLASSES}})
    for name in ("verdict", "real_and_synthetic_df"):
        path = folder / "figures" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64, 48), "white").save(path)
    write_text(
        folder / "verdict.md",
        "# Tiny: no evidence that synthesis helps\n\nCandidate `combined`.\n\n![The controls](figures/verdict.png)\n\n## The regimes\n",
    )
    write_json(folder / "verdict.json", {"candidate": "combined", "helps": False, "seeds": 5, "n_test_lesions": 210})


def write_settings(path: Path, required: bool = False, allowed: tuple[str, ...] = (), history: Path | None = None) -> Path:
    """A file for RARELENS_SETTINGS at `path`; with a `history`, it is on."""
    auth = f"[auth]\nrequired = {str(required).lower()}\nallowed = {list(allowed)}\nverified = true\n"
    write_text(path, f'{auth}[history]\nenabled = {str(history is not None).lower()}\nfile = "{history or "none"}"\n')
    return path


def write_lock(root: Path, path: str, *outs: str) -> None:
    """`root`/`path` as DVC writes it, recording `outs` as they lie there."""
    stages = {f"stage{i}": {"cmd": "x", "outs": [{"path": out, "hash": "md5", "md5": dvc_hash(root / out)}]} for i, out in enumerate(outs)}
    write_text(root / path, yaml.safe_dump({"schema": "2.0", "stages": stages}))


def build(root: Path, shipped: bool = False) -> Path:
    """The whole repository in small under `root`: data set phantom (the default) and a preset's data set, smoke. `shipped`: the candidate's
    networks have the body of models/base, which tells drawings from foreign images as a trained model does.
    """
    (root / "data").mkdir(parents=True, exist_ok=True)
    shutil.copy(REPOSITORY / "params.yaml", root)
    shutil.copy(REPOSITORY / "data" / "phantom.yaml", root / "data")
    card = yaml.safe_load((root / "data" / "phantom.yaml").read_text())
    write_text(root / "data" / "smoke.yaml", yaml.safe_dump(card | {"name": "smoke"}))
    for name, regime in (("phantom", "combined"), ("phantom", "real"), ("smoke", "combined")):
        write_model(root / "models" / name / regime, regime, name, shipped=shipped and (name, regime) == ("phantom", "combined"))
    add_known(root / "models" / "phantom" / "combined", 20 if shipped else 10)
    write_reports(root / "reports" / "phantom")
    outs = [f"reports/phantom/{name}" for name in ("metrics", "figures", "verdict.md", "verdict.json", "detail")]
    write_lock(root, "dvc.lock", "models/phantom/combined", "models/phantom/real", *outs)
    write_lock(root, "reports/smoke/dvc.lock", "models/smoke/combined")
    return root
