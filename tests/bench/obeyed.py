"""Rows on attributes: how often samples show the skin tone and the site that their prompts ask for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stages.runtime.params import Params

Row = list[str]


def obeyed_rows(found: Mapping[str, Any], of: str = "samples") -> list[Row]:
    """A row per attribute of what `bars.attributes_obeyed` found."""
    rows = []
    for name, told in found.items():
        seen, real = told["samples"], told["drawings"]
        rows.append(
            [
                f"{name.replace('_', ' ')} of {of} read as requested (real drawings: {real['value']:.0%}, {real['low']:.0%} to {real['high']:.0%})",
                f"{seen['value']:.0%} ({seen['low']:.0%} to {seen['high']:.0%}, n = {seen['n']})",
                f"chance: {told['chance']:.0%}",
                f"{seen['value'] / told['chance']:.2f}",
                "over 1, where real drawings are",
            ]
        )
    return rows


def adapter_rows(params: Params, lora_dir: Path) -> list[Row]:
    """The same for each disease's token and LoRA in `lora_dir`, at the guidance of generation; [] where the default run has made none."""
    from stages.diffusion import adapter, bars
    from stages.diffusion.base import load_base

    rows = []
    for folder in sorted(lora_dir.glob("*/")):
        pipe, base = load_base(lora_dir.parent / "base")
        adapter.load_adapter(pipe, folder, base["hash"])
        said = {folder.name: adapter.placeholder(folder.name)}
        found = bars.attributes_obeyed(pipe, Path("models/base/backbone"), params.pretrain.size, said, params.generate.guidance)
        rows += obeyed_rows(found, f"samples of {folder.name}, before the judge,")
    return rows
