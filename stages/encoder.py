"""Put the weights of a well-known encoder where the audit finds them, once they have been tried.

In:  FILE.safetensors, the state dict of torchvision's or timm's NAME.
Out: models/encoders/NAME.safetensors.

    python -m stages.encoder NAME FILE [--mean R G B] [--std R G B]
"""

from __future__ import annotations

import argparse
from pathlib import Path

from stages.runtime import determinism

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from stages.classifier import encoders
from stages.runtime.errors import UserError, run

NAMES = sorted({*encoders.KNOWN.values(), *encoders.PUBLISHED.values()})


#: rarelens opens no pickle; whoever trusts a file may.
HOW = "turn a PyTorch file that you trust into one with safetensors.torch.save_file"


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a file by name. Raises `UserError` when it is not safetensors."""
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: not readable as safetensors ({str(error).splitlines()[0]}); {HOW}") from None


def main() -> None:
    """Read, write, and try: an image goes through the network before the file counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=NAMES)
    parser.add_argument("file", type=Path)
    for key in ("mean", "std"):
        parser.add_argument(f"--{key}", type=float, nargs=3, help="of pixels in 0 to 1, where the weights want others than ImageNet's")
    args = parser.parse_args()
    determinism.fix(threads=1)
    said = {key: " ".join(map(str, values)) for key in ("mean", "std") if (values := getattr(args, key))}
    encoders.FOLDER.mkdir(parents=True, exist_ok=True)
    out = encoders.FOLDER / f"{args.name}.safetensors"
    partial = out.with_suffix(".partial")
    state = read_weights(args.file)
    if args.name == encoders.VGG:
        state = {k: v for k, v in state.items() if k.startswith("features.")}  # the rest is nine tenths of the file, and LPIPS has no use for it
    save_file(state, partial, metadata=said)
    try:
        picture = np.zeros((1, 64, 64, 3), np.uint8)
        if args.name == encoders.VGG:
            encoders.lpips(partial, picture, picture)
        else:
            encoders.known_outputs(args.name, partial, False, picture)
    except (KeyError, RuntimeError) as error:
        partial.unlink()
        raise UserError(f"{args.file}: not the weights of {args.name} ({str(error).splitlines()[0]})") from None
    partial.replace(out)
    print(f"{out}: the audit uses it from now on; to have it anew: dvc repro --force --single-item audit")


if __name__ == "__main__":
    run(main)
