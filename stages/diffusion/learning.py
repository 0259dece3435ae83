"""A disease's adapter from its images: token, then LoRA; and the picture of its losses. Shared by `lora_train` and `lora_study`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from stages.dataset.card import Card
from stages.dataset.table import decode
from stages.diffusion import adapter
from stages.diffusion.base import side
from stages.diffusion.finetuning import learn_token, material, probe, train_lora
from stages.diffusion.prompts import render_prompts
from stages.runtime.params import LoraTrain

Curve = Sequence[Mapping[str, float]]  # {step, held_out, train, gap} per checkpoint, the first before any step


def learn(pipe: Any, disease: str, card: Card, rows: dict[str, pd.DataFrame], p: LoraTrain, cache: Path, out: Path) -> dict[str, Any]:
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


def plot_curves(curves: Mapping[str, Curve], title: str, path: Path, kept: int | None = None) -> None:
    """By LoRA step, for each of `curves` by name: the denoising loss held out (solid) and in training (dashed), and their gap under it.

    The gap's rise over step 0 is memorisation; its level there is how the two sets of images differ. `kept` marks a step.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4 if len(curves) <= 2 else 8.6, 5), layout="constrained")
    losses, gaps = figure.subplots(2, sharex=True, height_ratios=(3, 2))
    for k, (name, curve) in enumerate(curves.items()):
        steps = [c["step"] for c in curve]
        losses.plot(steps, [c["held_out"] for c in curve], "o-", color=f"C{k}", label=f"{name}: held out")
        losses.plot(steps, [c["train"] for c in curve], "o--", color=f"C{k}", alpha=0.6, label=f"{name}: training")
        gaps.plot(steps, [c["gap"] for c in curve], "o-", color=f"C{k}")
    if kept is not None:
        for axes in (losses, gaps):
            axes.axvline(kept, color="grey", linewidth=0.8)
    losses.set(ylabel="denoising loss", title=title)
    if len(curves) > 2:
        figure.legend(*losses.get_legend_handles_labels(), loc="outside right upper", fontsize=7)
    else:
        losses.legend(fontsize=7)
    gaps.set(xlabel="LoRA step (0: the base with the learned token)", ylabel="gap: held out - training")
    figure.savefig(path, dpi=120, metadata={"Software": None})
