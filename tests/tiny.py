"""The smallest things that still have the right shape: a base of random weights in place of `models/base`."""

from __future__ import annotations

from pathlib import Path

import torch

from stages.classifier import backbone
from stages.dataset.groups import write_seen
from stages.diffusion.pretraining import build_pipeline, build_tokenizer
from stages.runtime.files import write_json


def write_base(folder: Path, size: int = 64, name: str = "test_resnet") -> Path:
    """A diffusers pipeline and a timm backbone named `name`, both of random weights, as `stages.pretrain` lays them out in `folder`."""
    torch.manual_seed(0)
    pipe = build_pipeline(build_tokenizer(), size, widths=(16, 32), ae_widths=(8, 16, 16))
    pipe.to(torch.float16).save_pretrained(folder, safe_serialization=True)
    backbone.save(backbone.build(name, 5, seed=0), folder / "backbone" / backbone.WEIGHTS, half=True)
    write_json(folder / "backbone" / "backbone.json", {"name": name})
    write_seen(folder, [])
    return folder
