"""Encoders that came as files: tried before they count, and used by the audit for the scores that papers report."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torchvision.models import squeezenet1_0, vgg16

from stages import encoder
from stages.classifier import encoders
from stages.metrics.generative import inception_score, pairs
from stages.runtime.errors import UserError

CAFFE = ["--mean", "0.4824", "0.4588", "0.4078", "--std", *["0.003922"] * 3]


def convert(monkeypatch: pytest.MonkeyPatch, *words: object) -> None:
    monkeypatch.setattr(sys, "argv", ["encoder", *map(str, words)])
    encoder.main()


def noise(n: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (n, 64, 64, 3), dtype=np.uint8)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_file_becomes_an_encoder_that_sees_what_the_network_sees(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = squeezenet1_0().eval()
    save_file(model.state_dict(), place / "own.safetensors")
    convert(monkeypatch, "squeezenet1_0", "own.safetensors", *CAFFE)
    path = encoders.cached("squeezenet1_0")
    assert path == Path("models/encoders/squeezenet1_0.safetensors")
    images = noise(3)
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float().div(255)
    x = torch.nn.functional.interpolate(x, (224, 224), mode="bicubic", antialias=True).clamp(0, 1)
    mean, std = (torch.tensor([float(v) for v in words]).view(3, 1, 1) for words in (CAFFE[1:4], CAFFE[5:8]))
    with torch.no_grad():
        wanted = model.features((x - mean) / std).mean((2, 3)).numpy()
    assert path and np.allclose(encoders.known_outputs("squeezenet1_0", path, False, images), wanted, rtol=1e-3, atol=1e-3)


def test_weights_of_another_network_and_a_pickle_are_refused(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_file({"features.0.weight": torch.zeros(3)}, place / "other.safetensors")
    with pytest.raises(UserError, match="not the weights of squeezenet1_0"):
        convert(monkeypatch, "squeezenet1_0", "other.safetensors")
    with pytest.raises(UserError, match=r"not the weights of vgg16\.tv_in1k"):
        convert(monkeypatch, "vgg16.tv_in1k", "other.safetensors")
    torch.save({"features.0.weight": torch.zeros(3)}, place / "other.pth")
    for name in ("other.pth", "missing.safetensors"):
        with pytest.raises(UserError, match=r"not readable as safetensors .* turn a PyTorch file that you trust into one"):
            convert(monkeypatch, "squeezenet1_0", name)
    assert not list((place / "models/encoders").glob("*"))


def test_lpips_is_the_distance_of_zhang_et_al(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = vgg16().features.eval()
    save_file({f"features.{k}": v for k, v in model.state_dict().items()} | {"classifier.0.bias": torch.zeros(2)}, place / "vgg.safetensors")
    convert(monkeypatch, "vgg16.tv_in1k", "vgg.safetensors")
    path = encoders.cached("vgg16.tv_in1k")
    assert path and "classifier.0.bias" not in load_file(path)
    a, b = noise(2), noise(2, 1)
    found = encoders.lpips(path, a, b)
    assert encoders.lpips(path, a, a).tolist() == [0, 0] and np.allclose(found, encoders.lpips(path, b, a))

    from torchmetrics.functional.image.lpips import _LPIPS  # how the layers are weighed comes with it

    lin = _LPIPS(pretrained=True, net="vgg", pnet_rand=True).state_dict()
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]).view(3, 1, 1), torch.tensor([0.458, 0.448, 0.450]).view(3, 1, 1)
    wanted = torch.zeros(2)
    with torch.no_grad():
        x, y = ((torch.from_numpy(v).permute(0, 3, 1, 2).float() / 127.5 - 1 - shift) / scale for v in (a, b))
        taken = {3: 0, 8: 1, 15: 2, 22: 3, 29: 4}  # relu1_2 to relu5_3
        for k, layer in enumerate(model):
            x, y = layer(x), layer(y)
            if k in taken:
                unit = [v / (v.square().sum(1, keepdim=True).sqrt() + 1e-8) for v in (x, y)]
                wanted += ((unit[0] - unit[1]).square() * lin[f"lin{taken[k]}.model.1.weight"]).sum(1).mean((1, 2))
    assert np.allclose(found, wanted.numpy(), rtol=1e-4)


def test_the_inception_score_is_that_of_torchmetrics() -> None:
    from torchmetrics.image.inception import InceptionScore

    class Given(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x[:, :, 0, 0]

    logits = torch.randn(40, 3, generator=torch.Generator().manual_seed(0)) * 3
    peer = InceptionScore(feature=Given(), splits=1)
    peer.update(logits[:, :, None, None])
    assert inception_score(logits.numpy()) == pytest.approx(float(peer.compute()[0]), rel=1e-5)
    assert inception_score(np.zeros((5, 7))) == pytest.approx(1)
    assert inception_score(np.eye(7) * 1e3) == pytest.approx(7)


def test_pairs_are_of_different_ones_and_each_drawn_once() -> None:
    drawn = pairs(5, 100, 0)
    assert len(drawn) == 10 == len({frozenset(p) for p in drawn.tolist()}) and (drawn[:, 0] != drawn[:, 1]).all()
    assert len(pairs(50, 7, 0)) == 7
