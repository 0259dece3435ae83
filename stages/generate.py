"""Draw synthetic images of one rare disease; the judge accepts them or has them drawn again.

In:  dataset card, refined images, split, base, the disease's adapter, judge.
Out: OUT_DIR/part-0.parquet, a row per attempt (accepted or with its reason; accepted PNGs say inside that AI made them),
     summary.json (accept rates, reasons), sheet.png and rejected.png (contact sheets).
Modes: text2img, img2img from the disease's own training images, interclass from those of common classes.

    python -m stages.generate DISEASE CARD REFINED SPLIT BASE_DIR LORA_DIR JUDGE_DIR OUT_DIR
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stages.runtime import determinism

import numpy as np
import pandas as pd
from accelerate import PartialState
from numpy.typing import NDArray
from tqdm import tqdm

from stages.classifier.judge import load_judge
from stages.dataset.card import read_card
from stages.dataset.groups import read_seen, read_split, refuse_overlap
from stages.dataset.table import decode, read_rows, write_table
from stages.diffusion import adapter
from stages.diffusion.base import device, load_base
from stages.diffusion.planning import planner
from stages.diffusion.prompts import render_prompts
from stages.diffusion.sampling import Request, Sampler, share
from stages.diffusion.selection import Attempt, fill
from stages.imaging.watermark import encode_marked
from stages.imaging.sheet import save_sheet
from stages.runtime.errors import LawError, UserError, run
from stages.runtime.files import fresh, write_json
from stages.runtime.params import Generate, read_params

SHEET = 20  # images in a row of a contact sheet


def table_of(attempts: list[Attempt], disease: str, classes: list[str], p: Generate, hashes: tuple[str, str]) -> pd.DataFrame:
    """A row per attempt, in the columns that mixing, audit and page read."""
    rows = []
    for a in attempts:
        r = a.request
        image = None if a.pixels is None else encode_marked(a.pixels)
        row = {
            "id": f"syn-{disease}-{r.slot:05d}-{r.attempt:02d}-{r.seed % 2**32:08x}",
            "label": disease, "accepted": a.accepted, "reason": a.reason, "image": image, "prompt": r.prompt, "seed": r.seed,
            "mode": r.mode, "source": r.source, "strength": r.strength, "guidance": p.guidance, "base_hash": hashes[0],
            "adapter_hash": hashes[1], "attempt": r.attempt, "slot": r.slot, "nearest_train_distance": a.nearest,
        }  # fmt: skip
        own = a.probabilities if len(a.probabilities) else np.full(len(classes), np.nan)
        rows.append(row | {f"p_{c}": float(v) for c, v in zip(classes, own, strict=True)})
    return pd.DataFrame(rows)


def summarise(table: pd.DataFrame, disease: str, pool: int) -> dict[str, Any]:
    """Accept rates, overall and per mode, and how often each reason was given."""

    def rate(part: pd.DataFrame) -> dict[str, Any]:
        return {"attempts": len(part), "accepted": int(part["accepted"].sum()), "rate": round(float(part["accepted"].mean()), 4)}

    return {
        "disease": disease,
        "pool": pool,
        **rate(table),
        "modes": {mode: rate(part) for mode, part in table.groupby("mode")},
        "reasons": dict(Counter(r for r in table["reason"] if r)),
    }


def write(table: pd.DataFrame, summary: dict[str, Any], attempts: Sequence[Attempt], out: Path) -> None:
    """The table, its summary and the two contact sheets."""
    write_table(out / "part-0.parquet", table)
    write_json(out / "summary.json", summary)
    for name, accepted in (("sheet", True), ("rejected", False)):
        rows: dict[str, list[NDArray[np.uint8]]] = {}
        for a in attempts:
            if a.accepted == accepted and a.pixels is not None:
                rows.setdefault(a.request.mode if accepted else a.reason, []).append(a.pixels)
        if rows:  # every so many-th of a row, so that all sources are seen
            spaced = {f"{title} ({len(each)})": np.stack(each[:: max(1, len(each) // SHEET)][:SHEET]) for title, each in sorted(rows.items())}
            save_sheet(spaced, out / f"{name}.png", generated=True)


def main() -> None:
    """Read, check law 1 and the adapter, draw, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("disease")
    for name in ("card", "refined", "split", "base_dir", "lora_dir", "judge_dir", "out_dir"):
        parser.add_argument(name, type=Path)
    args = parser.parse_args()
    state = PartialState(cpu=device().type == "cpu")
    params, card, split = read_params(), read_card(args.card), read_split(args.split)
    p, disease, templates = params.generate, args.disease, card.prompts[args.disease]
    determinism.fix(1, p.seed)  # a process draws and judges with one thread, however many there are: the bytes do not hang on it
    for folder in (args.base_dir, args.lora_dir):
        refuse_overlap(read_seen(folder), split, str(folder))
    judge = load_judge(args.judge_dir, split)
    pipe, base = load_base(args.base_dir)
    info = adapter.load_adapter(pipe, args.lora_dir, base["hash"])
    adapter.require_effect(pipe, args.lora_dir, render_prompts(templates, {}, info["token"])[0])
    adapter.fuse(pipe)

    others = p.interclass_from if p.modes.interclass else []
    train = read_rows(args.refined, split, "train", disease, *others)
    fold = dict(zip(train["id"], train["fold"].astype(int), strict=True))
    sampler = Sampler(pipe, dict(zip(train["id"], train["image"], strict=True)), p.steps, p.guidance)
    hashes = (base["hash"], info["adapter_hash"])
    known = {str(name): rows.to_dict("records") for name, rows in train.drop(columns="image").groupby("label")}
    own = known.pop(disease)
    if missing := sorted(set(others) - known.keys()):
        raise UserError(f"generate.interclass_from names {', '.join(missing)}, of which {args.split} has no training image")

    def draw(requests: Sequence[Request]) -> NDArray[np.float32]:
        what = f"{disease}, attempt {requests[0].attempt + 1}"
        if state.num_processes == 1:
            return sampler.forked(requests, params.threads, what)

        def mine(some: Sequence[Request]) -> NDArray[np.float32]:
            with tqdm(total=len(some), desc=what, unit=" image", mininterval=1, disable=not state.is_main_process) as bar:
                return sampler(some, bar.update)

        return share(mine, requests, state)

    def judged(images: NDArray[np.uint8], requests: Sequence[Request]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        unseen = np.array([-1 if r.source is None else fold[r.source] for r in requests])
        return judge.probabilities(images, unseen), judge.excess(images, disease, unseen)

    attempts = fill(
        planner(disease, templates, info["token"], own, known, p, hashes),
        draw,
        judged,
        pool=p.pool, max_attempts=p.max_attempts, wanted=judge.classes.index(disease), accept=judge.accept,
        train=decode(train["image"]), min_distance=p.min_distance,
    )  # fmt: skip
    if not state.is_main_process:
        return
    table = table_of(attempts, disease, judge.classes, p, hashes)
    if real := set(table["id"]) & set(split["id"]):
        raise LawError(f"synthetic image {sorted(real)[0]!r} has the id of a real one")
    summary = summarise(table, disease, p.pool)
    write(table, summary, attempts, fresh(args.out_dir))
    said = f"{disease}: {summary['accepted']} of {summary['attempts']} attempts accepted ({summary['rate']:.0%}; reasons: {summary['reasons']})"
    if not summary["accepted"]:
        raise UserError(f"{said}: look at {args.out_dir / 'rejected.png'}; raise generate.max_attempts or lora_train.steps, or lower judge.accept")
    print(said + ("" if summary["accepted"] >= p.pool else f"; {p.pool - summary['accepted']} of {p.pool} slots stayed empty"))


if __name__ == "__main__":
    run(main)
