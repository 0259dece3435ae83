"""The base: opened from a folder or the hub's cache, as safetensors only, and only if it is the one that was recorded."""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path

import huggingface_hub.constants as hub
import pytest
import torch
from safetensors.torch import load_file

from stages.diffusion import adapter
from stages.diffusion.base import load_base, open_pipeline, pipeline_hash, side
from stages.runtime.errors import LawError, UserError
from stages.runtime.files import write_json
from tests.tiny_disease import REPOSITORY, SIZE, write_pipeline

SD15 = "stable-diffusion-v1-5/stable-diffusion-v1-5"
REVISION = "451f4fe16113bff5a5d2269ed5ad43b0592e9a14"
SHARED = Path(__file__).parents[2] / "shared/data"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved pipeline; not to be changed."""
    return write_pipeline(tmp_path_factory.mktemp("base") / "pipeline")


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache and no network."""
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def test_the_embedded_base_fits_into_git() -> None:
    files = [path for path in (REPOSITORY / "models/base").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 25e6 and not [
        path for path in files if path.suffix in (".bin", ".ckpt", ".pt", ".pth", ".pkl")
    ]


def test_a_saved_pipeline_opens_frozen_in_float32(saved: Path) -> None:
    pipe = open_pipeline(saved)
    assert side(pipe) == SIZE
    assert pipe.safety_checker is None
    weights = [p for part in (pipe.unet, pipe.vae, pipe.text_encoder) for p in part.parameters()]
    assert not any(p.requires_grad for p in weights)
    if not torch.cuda.is_available():
        assert {p.dtype for p in weights} == {torch.float32}


def test_the_hash_follows_weights_and_configs_and_nothing_else(saved: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(saved, tmp_path / "copy"))
    (copy / "README.md").write_text("a note")
    assert pipeline_hash(copy) == pipeline_hash(saved)
    config = copy / "scheduler/scheduler_config.json"
    config.write_text(config.read_text().replace("v_prediction", "epsilon"))
    assert pipeline_hash(copy) != pipeline_hash(saved)


def test_a_base_that_changed_since_it_was_recorded_is_refused(saved: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(saved, tmp_path / "copy"))
    write_json(tmp_path / "base/base.json", {"source": str(copy), "revision": None, "hash": pipeline_hash(copy), "trained": False})
    load_base(tmp_path / "base")
    weights = copy / "unet/diffusion_pytorch_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(LawError, match="its hash differs"):
        load_base(tmp_path / "base")


def test_a_base_of_its_own_lies_in_the_base_folder(saved: Path, tmp_path: Path) -> None:
    shutil.copytree(saved, tmp_path / "base/pipeline")
    write_json(tmp_path / "base/base.json", {"source": "models/base", "revision": None, "hash": pipeline_hash(saved), "trained": True})
    pipe, info = load_base(tmp_path / "base")
    assert info["trained"] and pipe.unet.config.block_out_channels == [32, 64]


def test_half_precision_variants_are_preferred(saved: Path, tmp_path: Path) -> None:
    open_pipeline(saved).to(torch.float16).save_pretrained(tmp_path / "both", variant="fp16")
    (tmp_path / "both/unet/diffusion_pytorch_model.safetensors").write_bytes(b"not to be read")
    assert open_pipeline(tmp_path / "both").unet.config.sample_size == SIZE // 2


@pytest.mark.parametrize(("source", "revision"), [("no/folder", None), (SD15, None), (SD15, REVISION)])
def test_what_cannot_be_had_names_the_ways_out(source: str, revision: str | None, offline: Path) -> None:
    with pytest.raises(UserError, match=r"base\.source.*models/base.*base\.train"):
        open_pipeline(source, revision)


def test_stable_diffusion_opens_from_the_hubs_cache_without_network(saved: Path, offline: Path) -> None:
    snapshot = offline / f"models--{SD15.replace('/', '--')}/snapshots/{REVISION}"
    open_pipeline(saved).to(torch.float16).save_pretrained(snapshot, variant="fp16")
    assert side(open_pipeline(SD15, REVISION)) == SIZE


def test_pickles_are_refused(saved: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(saved, tmp_path / "copy"))
    weights = copy / "unet/diffusion_pytorch_model.safetensors"
    torch.save(load_file(weights), copy / "unet/diffusion_pytorch_model.bin")
    weights.unlink()
    with pytest.raises(UserError, match="can run code"):
        open_pipeline(copy)


def test_another_kind_of_pipeline_is_refused(saved: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(saved, tmp_path / "copy"))
    index = json.loads((copy / "model_index.json").read_text())
    (copy / "model_index.json").write_text(json.dumps(index | {"_class_name": "StableDiffusionXLPipeline"}))
    with pytest.raises(UserError, match="StableDiffusionXLPipeline"):
        open_pipeline(copy)


@pytest.mark.filterwarnings("ignore:.*copying from a non-meta parameter")
def test_a_lora_made_by_somebody_else_fits_stable_diffusion(tmp_path: Path) -> None:
    archives = [SHARED / "sd15_configs_tokenizer.tar", SHARED / "sd15_lora_optic_glioma.tar"]
    if not all(a.exists() for a in archives):
        pytest.skip("shared data is absent")
    for archive in archives:
        with tarfile.open(archive) as tar:
            tar.extractall(tmp_path, filter="data")
    from diffusers import StableDiffusionPipeline, UNet2DConditionModel

    with torch.device("meta"):  # 860 million weights of no value and no size
        unet = UNet2DConditionModel.from_config(json.loads((tmp_path / "sd15/unet/config.json").read_text()))

    pipe = StableDiffusionPipeline(
        vae=None, text_encoder=None, tokenizer=None, unet=unet, scheduler=None,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    adapter.load_lora(pipe, tmp_path / "lora/adapter_model.safetensors")
    loaded = [name for name, _ in unet.named_parameters() if "lora_" in name]
    assert len(loaded) == 256
