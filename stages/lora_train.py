"""Learn one rare disease from its real training images: its token, then a LoRA on the base's UNet.

In:  dataset card (the disease's prompts and attributes), refined images, split, base.
Out: OUT_DIR/pytorch_lora_weights.safetensors and learned_embeds.safetensors, which `pipe.load_lora_weights` and
     `pipe.load_textual_inversion` open; lora.json (token, parameters, hashes, per checkpoint the denoising loss held out and in
     training and their gap, whose rise is memorisation), curve.png, groups_seen.txt. The images of split `val` choose the checkpoint and teach nothing.

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

from stages.dataset.card import Card, read_card_to_learn
from stages.dataset.groups import group_hash, read_seen, read_split, refuse_overlap, write_seen
from stages.dataset.table import read_rows
from stages.diffusion import adapter
from stages.diffusion.base import device, load_base
from stages.diffusion.learning import learn, plot_curves
from stages.runtime.errors import run
from stages.runtime.files import fresh, sha256, write_json
from stages.runtime.params import LoraTrain, read_params

CACHE = Path(".cache/lora")


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
    params, card, split = read_params(), read_card_to_learn(args.card), read_split(args.split)
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
    counts = f"held out: {info['probed']['val']} images of val, training: {info['probed']['train']}"
    plot_curves({args.disease: info["curve"]}, f"LoRA, step {info['selected_step']} is kept\n{counts}", out / "curve.png", info["selected_step"])
    write_seen(out, seen | {group_hash(g) for g in rows["train"]["group"]})
    if not info["beats_the_base"]:
        print(f"{args.disease}: no checkpoint has a lower held-out loss than the base with the learned token; the best one is kept")
    shutil.rmtree(cache, ignore_errors=True)


if __name__ == "__main__":
    run(main)
