"""A disease's adapter, its learned token and its LoRA: put on a pipeline, checked, saved so that diffusers opens it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from stages.dataset.card import Class
from stages.diffusion.pretraining import embed
from stages.runtime.errors import LawError, UserError
from stages.runtime.files import read_json, sha256

LORA = "pytorch_lora_weights.safetensors"
TOKEN = "learned_embeds.safetensors"
INFO = "lora.json"
#: Least relative change (root mean square) of the UNet's output that counts as an effect.
LEAST_EFFECT = 1e-4


def placeholder(disease: str) -> str:
    """The token that stands for `disease` in prompts; with several vectors diffusers writes it out as <x> <x>_1 ..."""
    return f"<{re.sub('[^a-z0-9]+', '-', disease.lower())}>"


def context(pipe: Any, prompts: Sequence[str]) -> torch.Tensor:
    """Text embeddings (N, L, D) of `prompts`, their placeholders written out."""
    return embed(pipe, pipe.maybe_convert_prompt(list(prompts), pipe.tokenizer))


def initial_rows(pipe: Any, kind: Class, count: int, seed: int) -> torch.Tensor:
    """Vectors (count, D) for a new token: the mean of the words the text encoder knows of the class's names, a little apart.

    Where it knows none (a rare disease spelled in letters), of "skin lesion".
    """
    table = pipe.text_encoder.get_input_embeddings().weight.detach().float().cpu()
    for text in (kind.title, *kind.synonyms, "skin lesion"):
        each = [pipe.tokenizer(word, add_special_tokens=False).input_ids for word in text.split() if len(word) > 1]
        if known := [ids[0] for ids in each if len(ids) == 1]:
            break
    noise = torch.randn((count, table.shape[1]), generator=torch.Generator().manual_seed(seed))
    return table[known].mean(0) + 0.1 * table.std() * noise


def add_token(pipe: Any, token: str, rows: torch.Tensor) -> list[int]:
    """Teach `pipe` the `token` with vectors `rows` (n, D); returns the n ids."""
    # Room first: on its own, the loader has transformers draw new vectors from a covariance that nobody uses.
    pipe.text_encoder.resize_token_embeddings(len(pipe.tokenizer) + len(rows), mean_resizing=False)
    pipe.load_textual_inversion({token: rows})
    pipe.text_encoder.requires_grad_(False)
    ids: list[int] = pipe.tokenizer.convert_tokens_to_ids([token, *(f"{token}_{i}" for i in range(1, len(rows)))])
    return ids


def add_lora(unet: Any, rank: int, alpha: float, targets: Sequence[str], seed: int) -> list[torch.nn.Parameter]:
    """Put an untrained LoRA on the layers of `unet` whose names end in one of `targets`; returns its float32 parameters."""
    from peft import LoraConfig

    names = [name for name, _ in unet.named_modules()]
    for target in targets:
        if not any(name == target or name.endswith(f".{target}") for name in names):
            raise UserError(f"params.yaml: lora_train.targets: {target!r} names no layer of the base's UNet; some are to_q, to_v, to_out.0, conv1")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet.add_adapter(LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(targets)))
    unet.to(memory_format=torch.channels_last)
    trained = [p for p in unet.parameters() if p.requires_grad]
    for parameter in trained:
        parameter.data = parameter.data.float()
    return trained


def save_adapter(folder: Path, unet: Any, scale: float, token: str, rows: torch.Tensor) -> dict[str, str]:
    """Write the LoRA on `unet` and the `token` with its `rows` (n, D) to `folder`; returns the files' SHA-256.

    `scale` is alpha / rank. It is multiplied into the up matrices, so that every loader finds the same strength
    without a side file: with no alpha given, alpha is the rank and the scale 1.
    """
    from diffusers import StableDiffusionPipeline
    from peft.utils import get_peft_model_state_dict

    state = {
        key: (value * scale if ".lora_B." in key else value).detach().float().cpu().contiguous()
        for key, value in get_peft_model_state_dict(unet).items()
    }
    # In PEFT's names throughout: diffusers' converter renames attention layers only, and its loader, which takes the first
    # key for all, then leaves them out without a word.
    StableDiffusionPipeline.save_lora_weights(folder, unet_lora_layers=state, safe_serialization=True)
    save_file({token: rows.detach().float().cpu().contiguous()}, folder / TOKEN, metadata={"format": "pt"})
    return {name: sha256(folder / name) for name in (LORA, TOKEN)}


def adapter_hash(files: Mapping[str, str]) -> str:
    """One hash for an adapter's files, from their SHA-256 by name."""
    return hashlib.sha256("".join(f"{name}\0{files[name]}\n" for name in sorted(files)).encode()).hexdigest()


def load_lora(pipe: Any, path: Path) -> None:
    """Put the LoRA file at `path` on `pipe.unet`: one of ours, or one in PEFT's bare or diffusers' older names.

    Raises `LawError` when a weight of the file finds no layer (one for a text encoder never does), a layer gets no weight,
    or a shape is wrong.
    """
    from diffusers.utils import convert_unet_state_dict_to_peft
    from peft.utils import get_peft_model_state_dict

    state = {key if key.startswith(("unet.", "text_encoder.")) else f"unet.{key}": value for key, value in load_file(path).items()}
    state = convert_unet_state_dict_to_peft(state)
    try:
        pipe.load_lora_into_unet(state, network_alphas=None, unet=pipe.unet, adapter_name="default", _pipeline=pipe)
    except (ValueError, RuntimeError, KeyError) as error:
        raise LawError(f"{path} does not fit the base: {' '.join(str(error).split())[:300]}") from None
    loaded = set(get_peft_model_state_dict(pipe.unet)) if getattr(pipe.unet, "peft_config", None) else set()
    wanted = {key.removeprefix("unet.") for key in state}
    if loaded != wanted:
        raise LawError(
            f"{path} does not fit the base: {len(wanted - loaded)} weight(s) found no layer, {len(loaded - wanted)} layer(s) got none, "
            f"e.g. {sorted(wanted ^ loaded)[0]}"
        )


def load_adapter(pipe: Any, folder: Path, base_hash: str) -> dict[str, Any]:
    """Load token and LoRA of `folder` onto `pipe`; returns lora.json. `LawError` when they were tampered with or made for another base."""
    info: dict[str, Any] = read_json(folder / INFO)
    for name, digest in info["sha256"].items():
        if sha256(folder / name) != digest:
            raise LawError(f"{folder / name} is not the file that {INFO} recorded: run `dvc repro` to make it anew")
    if info["base_hash"] != base_hash:
        raise LawError(f"{folder} was trained on another base ({info['base_hash'][:12]}, not {base_hash[:12]}): run `dvc repro`")
    [(token, rows)] = load_file(folder / TOKEN).items()
    ids = add_token(pipe, token, rows)
    taken = pipe.text_encoder.get_input_embeddings().weight[ids].float().cpu()
    if not torch.isfinite(rows).all() or not rows.abs().amax(1).gt(0).all() or not torch.allclose(taken, rows, atol=1e-2):
        raise LawError(f"{folder / TOKEN}: the token {token} is empty or did not load: run `dvc repro` to make it anew")
    load_lora(pipe, folder / LORA)
    return info


@torch.no_grad()
def effect(pipe: Any, prompt: str) -> float:
    """How much the LoRA changes the UNet's output on fixed noise: root mean square of the change over that of the output."""
    unet = pipe.unet
    side = unet.config.sample_size
    noise = torch.randn((2, unet.config.in_channels, side, side), generator=torch.Generator().manual_seed(0))
    x = noise.to(unet.device, unet.dtype).contiguous(memory_format=torch.channels_last)
    t = torch.tensor([200, 700], device=unet.device)
    words = context(pipe, [prompt] * 2).to(unet.dtype)
    on = unet(x, t, words).sample.float()
    pipe.disable_lora()
    off = unet(x, t, words).sample.float()
    pipe.enable_lora()
    return float((on - off).square().mean().sqrt() / off.square().mean().sqrt())


def require_effect(pipe: Any, folder: Path, prompt: str) -> float:
    """`effect`, or `LawError` when the adapter changes nothing: images made with it would be the base's."""
    change = effect(pipe, prompt)
    if not change >= LEAST_EFFECT:
        raise LawError(f"{folder}: an adapter with no effect (the output changes by {change:.1e} of itself): train it longer or raise lora_train.lr")
    return change


def fuse(pipe: Any) -> None:
    """Merge the loaded LoRA into the UNet's weights: the same images, at the base's speed."""
    pipe.fuse_lora()
    pipe.unload_lora_weights()
    pipe.unet.requires_grad_(False).eval().to(memory_format=torch.channels_last)
