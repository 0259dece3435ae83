"""Which LoRA suits a disease: rank, target layers and steps, by the denoising loss on images of val beside the gap to training images.

In:  dataset card, refined images, split, base; every other setting from params.yaml's lora_train.
Out: OUT_DIR/<disease>.csv (rank, targets, step, held_out, train, gap), <disease>.png. Nothing but train and val is read.

    python -m stages.lora_study DISEASE CARD REFINED SPLIT BASE_DIR OUT_DIR [--rank 4 8 16] [--targets attention attention+conv] [--steps N]

One run a setting; its checkpoints are the tries of fewer steps, as the learning rate is constant. The token is learned once.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path

from stages.runtime import determinism

import pandas as pd

from stages.dataset.card import Card, read_card_to_learn
from stages.dataset.groups import read_seen, read_split, refuse_overlap
from stages.dataset.table import read_rows
from stages.diffusion.base import load_base
from stages.diffusion.learning import Curve, learn, plot_curves
from stages.runtime.errors import run
from stages.runtime.files import write_text
from stages.runtime.markdown import markdown
from stages.runtime.params import LoraTrain, read_params

ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]
TARGETS = {"attention": ATTENTION, "attention+conv": [*ATTENTION, "conv1", "conv2"]}


def settings(p: LoraTrain, ranks: Sequence[int], targets: Sequence[str], steps: int) -> Iterator[tuple[int, str, LoraTrain]]:
    """(rank, targets, parameters) of every run; alpha keeps its ratio to the rank, so that the rate of learning stays comparable."""
    for rank, name in product(ranks, targets):
        yield rank, name, p.model_copy(update={"rank": rank, "alpha": p.alpha / p.rank * rank, "targets": TARGETS[name], "steps": steps})


def study(
    disease: str, card: Card, rows: dict[str, pd.DataFrame], base: Path, runs: Sequence[tuple[int, str, LoraTrain]]
) -> dict[tuple[int, str], Curve]:
    """The curve of every run, by rank and targets."""
    curves: dict[tuple[int, str], Curve] = {}
    with tempfile.TemporaryDirectory() as name:
        token = Path(name) / "token.safetensors"
        for rank, targets, p in runs:
            cache = Path(name) / f"{rank}-{targets}"
            cache.mkdir()
            if token.exists():
                shutil.copy(token, cache)
            curves[rank, targets] = learn(load_base(base)[0], disease, card, rows, p, cache, cache / "adapter")["curve"]
            shutil.copy(cache / token.name, token)
    return curves


def best(table: pd.DataFrame) -> str:
    """The step of least held-out loss of every rank and targets, the best first, in Markdown."""
    least = table[table["step"] > 0].sort_values(["held_out", "step"]).groupby(["rank", "targets"], sort=False).head(1)
    return markdown(
        [[str(c) for c in least], *([f"{v:.4f}" if isinstance(v, float) else str(v) for v in row] for row in least.itertuples(index=False))]
    )


def main() -> None:
    """Read, check law 1, train every setting, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("disease")
    for name in ("card", "refined", "split", "base_dir", "out_dir"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--rank", type=int, nargs="+", default=[4, 8, 16])
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--steps", type=int, help="of every run (default: twice lora_train.steps)")
    args = parser.parse_args()
    params, card, split = read_params(), read_card_to_learn(args.card), read_split(args.split)
    p = params.lora_train
    determinism.fix(params.threads, p.seed)
    refuse_overlap(read_seen(args.base_dir), split, f"base {args.base_dir}")
    rows = {part: read_rows(args.refined, split, part, args.disease) for part in ("train", "val")}

    curves = study(args.disease, card, rows, args.base_dir, list(settings(p, args.rank, args.targets, args.steps or 2 * p.steps)))
    table = pd.DataFrame([{"rank": rank, "targets": targets, **point} for (rank, targets), curve in curves.items() for point in curve])
    write_text(args.out_dir / f"{args.disease}.csv", table.to_csv(index=False, float_format="%.6f", lineterminator="\n"))
    shown = {f"rank {rank}, {targets}": curve for (rank, targets), curve in curves.items()}
    plot_curves(shown, f"{args.disease}: {min(p.held_out, len(rows['val']))} images held out", args.out_dir / f"{args.disease}.png")
    print(best(table))


if __name__ == "__main__":
    run(main)
