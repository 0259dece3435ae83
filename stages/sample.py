"""Text to image: draw what a sentence says; the judge looks at each image, and wrong ones are drawn again.

    python -m stages.sample "a dermoscopic image of a vascular lesion on dark skin" --n 8 OUT_DIR [--dataset NAME] [--seed 0]

In:  the text; of the data set (params.yaml's, or --dataset) its card, base, judge and, when the text names a rare disease by title or
     synonym, that disease's token and LoRA. Steps, guidance and attempts are params.yaml's.
Out: OUT_DIR/0000.png ... (they say inside that AI made them) and samples.csv (file, seed, attempts, judge_probability, accepted, reason), kept up
     with each decided image, so that whoever ends it half-way keeps what there is; at the end sheet.png. When the text names no class, nothing is
     accepted: the reason is "not judged", of an image that shows something.

Words that the text encoder does not know are named on stderr. No image here is a patient's, and none is fit for diagnosis.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path

from stages.runtime import determinism

import numpy as np
import pandas as pd

from stages.classifier.judge import load_judge
from stages.dataset.card import read_card
from stages.diffusion import adapter
from stages.diffusion.ordering import Painter, Picture, paint, understand
from stages.imaging.sheet import save_sheet
from stages.imaging.watermark import encode_marked
from stages.runtime.errors import UserError, run
from stages.runtime.files import write_bytes, write_text
from stages.runtime.params import read_params
from stages.runtime.progress import progress_bar

ROW = 8  # images in a row of the sheet
COLUMNS = ["file", "seed", "attempts", "judge_probability", "accepted", "reason"]
UNJUDGED = "not judged"  # the reason where the text names no class: neither accepted nor refused


def write(pictures: Mapping[int, Picture], out_dir: Path, judged: bool) -> pd.DataFrame:
    """samples.csv of what is decided so far, by number, which is given back."""
    rows = [
        (
            f"{k:04d}.png" if (p := pictures[k]).pixels is not None else "",
            *(p.seed, p.attempts, p.probability),
            *((p.accepted, p.reason) if judged else (False, p.reason or UNJUDGED)),
        )
        for k in sorted(pictures)
    ]
    table = pd.DataFrame(rows, columns=COLUMNS)
    write_text(out_dir / "samples.csv", table.to_csv(index=False, float_format="%.6f", lineterminator="\n"))
    return table


def main() -> None:
    """Read the text, draw, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text")
    parser.add_argument("out_dir", type=Path)
    parser.add_argument("--n", type=int, default=8, help="images to draw (default 8)")
    parser.add_argument("--dataset", help="whose models draw (default: params.yaml's dataset)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.n < 1:
        raise UserError("--n must be 1 or more")
    if args.out_dir.exists() and (not args.out_dir.is_dir() or any(args.out_dir.iterdir())):
        raise UserError(f"{args.out_dir} holds something already: name a folder that is new or empty")
    params = read_params()
    dataset = args.dataset or params.dataset
    models = Path("models") / dataset
    card = read_card(Path("data") / f"{dataset}.yaml")
    own = dataset == params.dataset  # of another data set nothing says what is rare but what was learned
    rare = params.rare if own else [c for c in card.class_names if (models / "lora" / c / adapter.INFO).exists()]
    order = understand(args.text, card, rare)

    determinism.fix(1)  # the same bytes on any machine of one type
    painter = Painter(models / "base", models / "lora" / str(order.label) if order.rare else None, params.generate)
    if spelled := painter.unknown(order):
        print(f"warning: the base does not know {', '.join(map(repr, spelled))} as words, so they change little", file=sys.stderr)
    if order.label is None:
        print(f"warning: the text names no class of {dataset}, so no image is judged", file=sys.stderr)
    judge = load_judge(models / "judge") if order.label else None
    size = params.refine.size if own else painter.sampler.side
    pictures: dict[int, Picture] = {}
    judged = order.label is not None
    table = write(pictures, args.out_dir, judged)
    with progress_bar("drawn", "image") as bar:
        for picture in paint(painter, order, args.n, judge, size, params.generate, seed=args.seed, tick=bar.update):
            pictures[picture.number] = picture
            if picture.pixels is not None:
                write_bytes(args.out_dir / f"{picture.number:04d}.png", encode_marked(picture.pixels))
            table = write(pictures, args.out_dir, judged)

    shown = [pixels for k in sorted(pictures) if (pixels := pictures[k].pixels) is not None]
    if shown:
        lines = {f"{args.text}, from {k + 1}": np.stack(shown[k : k + ROW]) for k in range(0, len(shown), ROW)}
        save_sheet(lines, args.out_dir / "sheet.png", generated=True)
    kept = f"{table['accepted'].sum()} of {len(table)} images accepted" if judged else f"{len(table)} images, none judged"
    print(f"{args.out_dir}: {kept}, {table['attempts'].sum()} drawn; prompt: {order.prompt}")


if __name__ == "__main__":
    run(main)
