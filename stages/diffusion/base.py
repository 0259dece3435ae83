"""Open a base model: any diffusers `StableDiffusionPipeline` in safetensors, from a folder or from a hub id with a pinned revision."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.runtime.errors import LawError, UserError
from stages.runtime.files import read_json, sha256

if TYPE_CHECKING:
    import torch

INDEX = "model_index.json"
PARTS = ("scheduler", "text_encoder", "tokenizer", "unet", "vae")
WITH_WEIGHTS = ("text_encoder", "unet", "vae")
WAYS_OUT = "ways out: name a local folder in base.source (params.yaml), keep base.source: models/base, or train one of your own with base.train: true"


def device() -> torch.device:
    """The first CUDA device where there is one, else the CPU."""
    import torch  # here, as below: stage `base` names a base and need not open it

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _variant(folder: Path) -> str | None:
    """'fp16' where `folder` holds such a variant of its weights, else None (the plain files)."""
    return "fp16" if any((folder / "unet").glob("*.fp16*.safetensors")) else None


def _check(folder: Path) -> None:
    """Refuse (`UserError`) a folder that is no Stable Diffusion, or whose weights are pickles: those can run code."""
    if not (folder / INDEX).exists():
        raise UserError(f"{folder} holds no {INDEX}: base.source must be a folder that StableDiffusionPipeline.save_pretrained wrote")
    kind = read_json(folder / INDEX).get("_class_name")
    if kind != "StableDiffusionPipeline":
        raise UserError(f"{folder} is a {kind}; the base must be a StableDiffusionPipeline")
    for part in PARTS:
        if not (folder / part).is_dir():
            raise UserError(f"{folder}/{part} is missing")
    for part in WITH_WEIGHTS:
        if not any((folder / part).glob("*.safetensors")):
            raise UserError(
                f"{folder}/{part} holds no .safetensors; weights as pickle (.bin) are refused because they can run code: "
                "save the pipeline with safe_serialization=True"
            )


def pipeline_hash(folder: str | Path) -> str:
    """Hex SHA-256 over what `open_pipeline` reads of `folder`: configs, vocabularies and one variant of the weights."""
    folder = Path(folder)
    _check(folder)
    variant = _variant(folder)
    files = [folder / INDEX]
    for part in PARTS:
        for path in (folder / part).iterdir():
            weights = path.suffix == ".safetensors"
            if (weights and (".fp16" in path.name) == (variant is not None)) or path.suffix in (".json", ".txt"):
                files.append(path)
    total = hashlib.sha256()
    for path in sorted(files):
        total.update(f"{path.relative_to(folder).as_posix()}\0{sha256(path)}\n".encode())
    return total.hexdigest()


def _download(source: str, revision: str) -> Path:
    """The hub's snapshot of `source` at `revision`, fp16 safetensors only; `UserError` without network and cache."""
    from diffusers import StableDiffusionPipeline

    try:
        return Path(
            StableDiffusionPipeline.download(
                source, revision=revision, variant="fp16", use_safetensors=True, safety_checker=None, feature_extractor=None
            )
        )
    except Exception as error:  # the hub client, its HTTP library and diffusers each raise their own; the remedy is the same
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"base {source!r} at {revision} cannot be fetched ({type(error).__name__}: {reason}); {WAYS_OUT}") from None


def open_pipeline(source: str | Path, revision: str | None = None) -> Any:
    """The `StableDiffusionPipeline` at `source`, a folder or a hub id (which needs `revision`), frozen, without safety checker.

    float32 on the CPU, bfloat16 (float16 on cards without it) on the first CUDA device. Raises `UserError`.
    """
    import torch
    from diffusers import StableDiffusionPipeline
    from diffusers.utils.logging import disable_progress_bar
    from transformers.utils.logging import disable_progress_bar as disable_transformers_bar

    disable_progress_bar()
    disable_transformers_bar()
    folder = Path(source)
    if not folder.is_dir():
        if not revision:
            raise UserError(
                f"base.source {str(source)!r} is not a folder here, and a hub id needs base.revision, the commit it is pinned to; {WAYS_OUT}"
            )
        folder = _download(str(source), revision)
    _check(folder)
    where = device()
    dtype = torch.float32
    if where.type == "cuda":
        dtype = torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    try:
        pipe = StableDiffusionPipeline.from_pretrained(
            folder, variant=_variant(folder), use_safetensors=True, dtype=dtype, local_files_only=True,
            safety_checker=None, feature_extractor=None, requires_safety_checker=False,
        )  # fmt: skip
    except (OSError, ValueError) as error:
        raise UserError(f"{folder} cannot be opened as a StableDiffusionPipeline: {' '.join(str(error).split())[:300]}") from None
    pipe.set_progress_bar_config(disable=True)
    for part in WITH_WEIGHTS:
        getattr(pipe, part).requires_grad_(False).eval()
    pipe.unet.to(memory_format=torch.channels_last)
    return pipe.to(where)


def load_base(base_dir: str | Path) -> tuple[Any, dict[str, Any]]:
    """The pipeline that BASE_DIR/base.json names (its own when it was trained) and that file's content.

    Raises `LawError` when the weights on disk are not those whose hash was recorded.
    """
    base_dir = Path(base_dir)
    if not (base_dir / "base.json").exists():
        raise UserError(f"{base_dir / 'base.json'} does not exist: run `dvc repro base` first")
    info: dict[str, Any] = read_json(base_dir / "base.json")
    source = base_dir / "pipeline" if info["trained"] else Path(info["source"])
    if source.is_dir() and pipeline_hash(source) != info["hash"]:
        raise LawError(f"{source} is not the base that {base_dir / 'base.json'} recorded (its hash differs): run `dvc repro`, so that all follows it")
    return open_pipeline(source if info["trained"] else info["source"], info["revision"]), info


def side(pipe: Any) -> int:
    """The side in pixels of the square images `pipe` was trained on."""
    return int(pipe.unet.config.sample_size) * int(pipe.vae_scale_factor)
