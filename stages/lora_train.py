"""Learn one rare disease from its real training images: its token, then a LoRA on the base's UNet.

In:  dataset card (the disease's prompts and attributes), refined images, split, base.
Out: OUT_DIR/pytorch_lora_weights.safetensors and learned_embeds.safetensors, which `pipe.load_lora_weights` and
     `pipe.load_textual_inversion` open; lora.json (token, parameters, held-out loss per checkpoint, hashes), curve.png,
     groups_seen.txt. The images of split `val` choose the checkpoint and teach nothing.

    python -m stages.lora_train DISEASE CARD REFINED SPLIT BASE_DIR OUT_DIR

Work that was interrupted is taken up from .cache/lora, which is keyed by a hash of its inputs and emptied at the end.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

from stages.runtime import determinism

import torch
from accelerate import PartialState

from stages.dataset.card import Card, read_card
from stages.dataset.groups import group_hash, read_seen, read_split, refuse_overlap, write_seen
from stages.dataset.table import decode, read_rows
from stages.diffusion import adapter
from stages.diffusion.base import device, load_base, side
from stages.diffusion.finetuning import learn_token, material, probe, train_lora
from stages.diffusion.prompts import render_prompts
from stages.runtime.errors import run
from stages.runtime.files import fresh, sha256, write_json
from stages.runtime.params import LoraTrain, read_params

CACHE = Path(".cache/lora")


def learn(pipe: Any, disease: str, card: Card, rows: dict[str, Any], p: LoraTrain, cache: Path, out: Path) -> dict[str, Any]:
    """Token, then LoRA, from `rows["train"]`, checked on `rows["val"]`; writes the adapter to `out`, returns what lora.json says of it."""
    token = adapter.placeholder(disease)
    known = {part: [render_prompts(card.prompts[disease], row, token) for row in table.to_dict("records")] for part, table in rows.items()}
    data = {part: material(pipe, decode(table["image"], side(pipe)), known[part]) for part, table in rows.items()}
    ids = adapter.add_token(pipe, token, adapter.initial_rows(pipe, card.classes[disease], p.tokens, p.seed))
    vectors = learn_token(pipe, ids, data["train"], p, cache / "token.safetensors")
    count = {part: min(p.held_out, len(table)) for part, table in rows.items()}
    tasks = {part: probe(pipe, data[part], count[part], p.seed) for part in rows}
    step, curve = train_lora(pipe, data["train"], tasks["val"], tasks["train"], p, cache / "lora.safetensors")
    files = adapter.save_adapter(out, pipe.unet, p.alpha / p.rank, token, vectors)
    least = min(c["held_out"] for c in curve[1:])
    return {
        "disease": disease,
        "token": token,
        "vectors": p.tokens,
        "params": p.model_dump(),
        "selected_step": step,
        "curve": curve,
        "beats_the_base": least < curve[0]["held_out"],
        "probed": count,
        "images": len(rows["train"]),
        "groups": rows["train"]["group"].nunique(),
        "sha256": files,
        "adapter_hash": adapter.adapter_hash(files),
    }


def plot(info: dict[str, Any], path: Path) -> None:
    """The denoising loss on held-out and on training images, by step; their growing distance is memorisation."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3.2), layout="constrained")
    axes = figure.subplots()
    steps = [c["step"] for c in info["curve"]]
    axes.plot(steps, [c["held_out"] for c in info["curve"]], "o-", label=f"held out (val, n = {info['probed']['val']})")
    axes.plot(steps, [c["train"] for c in info["curve"]], "o--", label=f"training (n = {info['probed']['train']})")
    axes.axvline(info["selected_step"], color="grey", linewidth=0.8, label=f"kept: step {info['selected_step']}")
    axes.set(xlabel="LoRA step (0: the base with the learned token)", ylabel="denoising loss", title=f"{info['disease']}: LoRA")
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=120, metadata={"Software": None})


def key_of(disease: str, card: Card, rows: dict[str, Any], p: LoraTrain, base_hash: str) -> str:
    """A hash of all that the training depends on: parameters, prompts, images and what is known of them, base, threads and this code."""
    code = [sha256(f) for f in sorted(Path(adapter.__file__).parent.glob("*.py"))]
    images = {part: [hashlib.sha256(b).hexdigest() for b in table["image"]] for part, table in rows.items()}
    known = {part: table.drop(columns="image").to_json() for part, table in rows.items()}
    value = [
        disease,
        card.classes[disease].model_dump(),
        card.prompts[disease],
        p.model_dump(),
        base_hash,
        code,
        images,
        known,
        torch.get_num_threads(),
    ]
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]


def main() -> None:
    """Read, check law 1, train on the first process, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("disease")
    for name in ("card", "refined", "split", "base_dir", "out_dir"):
        parser.add_argument(name, type=Path)
    args = parser.parse_args()
    # A few hundred small steps: more processes would change the sums, not the time.
    if not PartialState(cpu=device().type == "cpu").is_main_process:
        return
    params, card, split = read_params(), read_card(args.card), read_split(args.split)
    p = params.lora_train
    determinism.fix(params.threads, p.seed)
    seen = read_seen(args.base_dir)
    refuse_overlap(seen, split, f"base {args.base_dir}")
    pipe, base = load_base(args.base_dir)
    rows = {part: read_rows(args.refined, split, part, args.disease) for part in ("train", "val")}
    cache = CACHE / key_of(args.disease, card, rows, p, base["hash"])

    out = fresh(args.out_dir)
    info = learn(pipe, args.disease, card, rows, p, cache, out) | {"base_hash": base["hash"]}
    write_json(out / adapter.INFO, info)
    plot(info, out / "curve.png")
    write_seen(out, seen | {group_hash(g) for g in rows["train"]["group"]})
    if not info["beats_the_base"]:
        print(f"{args.disease}: no checkpoint has a lower held-out loss than the base with the learned token; the best one is kept")
    shutil.rmtree(cache, ignore_errors=True)


if __name__ == "__main__":
    run(main)
