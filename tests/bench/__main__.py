"""Measure, and write reports/bench.md: `make bench` (about 15 minutes on two cores; `python -m tests.bench --only Speed` measures a part anew).

Every row is a ratio, measured against its peer or limit in this very run, so that it holds on other machines too.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

ENVIRONMENT = dict(os.environ)  # before stages fixes the CPU capability in it

from stages.runtime import determinism

from stages.imaging.phantoms import CLASSES, COMMON, RARE, draw_lesion, render, rng_for
from stages.runtime.files import write_text
from stages.runtime.markdown import markdown
from stages.runtime.params import Params, read_params
from tests.bench.labels import label_rows
from tests.bench.obeyed import adapter_rows, obeyed_rows
from tests.bench.odd import odd_rows
from tests.bench.page import page_rows
from tests.bench.refining import many_rows, refine_rows
from tests.bench.reporting import report_rows
from tests.bench.shortcuts import shortcut_rows
from tests.bench.text import pictures, text_rates

HEAD = ["what", "measured", "peer or limit", "ratio", "wanted"]
Row = list[str]
SHARED = Path(__file__).parents[2].parent / "shared/data"


def cpu_capability(rounds: int = 3) -> list[Row]:
    """What the fixed CPU capability (the same bytes on machines of one type) costs: the same steps with and without it, alternating."""
    found: dict[str, dict[str, list[float]]] = {}
    for _ in range(rounds):
        for native in ("0", "1"):
            run = subprocess.run(
                [sys.executable, "-m", "tests.bench.steps"],
                env=ENVIRONMENT | {"RARELENS_NATIVE_CPU": native}, check=True, capture_output=True, text=True,
            )  # fmt: skip
            for name, seconds in json.loads(run.stdout).items():
                found.setdefault(name, {}).setdefault(native, []).append(seconds)
    rows = []
    for name, times in found.items():
        fixed_s, native_s = median(times["0"]), median(times["1"])
        rows.append(
            [
                f"{name}, fixed CPU capability",
                f"{fixed_s * 1000:.1f} ms",
                f"native: {native_s * 1000:.1f} ms",
                f"{fixed_s / native_s:.2f}",
                "reported",
            ]
        )
    return rows


def phantom_speed(count: int = 200, limit_ms: float = 5.0) -> list[Row]:
    """Milliseconds to draw one 64 px phantom, one process."""
    keys = [(CLASSES[i % len(CLASSES)], i) for i in range(count)]
    start = time.perf_counter()
    for label, i in keys:
        render(draw_lesion(label, rng_for("bench", i)), rng_for("bench photograph", i), 64)
    took = (time.perf_counter() - start) / count * 1000
    return [["one phantom", f"{took:.1f} ms", f"limit: {limit_ms:.0f} ms", f"{took / limit_ms:.2f}", "about 1"]]


def base_bars(params: Params) -> list[Row]:
    """The bars of models/base, on drawings it has not seen."""
    import torch

    from stages.diffusion import bars
    from stages.diffusion.base import open_pipeline

    p = params.pretrain
    pipe = open_pipeline("models/base", None).to(torch.float32)
    rec = bars.reconstruction(pipe.vae, p.size, n=200)
    scorer = bars.scorer(p.size, p.backbone.name)
    gen, _ = bars.naming(pipe, scorer, p.size, n=100)
    rows = [["reconstruction, common classes", f"{rec['common']:.1f} dB", "bar: 30 dB", f"{rec['common'] / 30:.2f}", "1 or more"]]
    for name in RARE:
        gap = rec["common"] - rec[name]
        rows.append([f"reconstruction, {name}, below common", f"{gap:.1f} dB", "bar: 1 dB", f"{gap:.2f}", "1 or less"])
    for name in [*COMMON, "all"]:
        named, real = gen["named"][name], gen["scorer_on_real"][name]
        rows.append(
            [f"samples named as requested, {name} (real drawings: {real:.0%})", f"{named:.0%}", "bar: 80%", f"{named / 0.8:.2f}", "1 or more"]
        )
    kid, floor = gen["kid"]["value"], gen["kid_floor"]["value"]
    rows += obeyed_rows(bars.attributes_obeyed(pipe, Path("models/base/backbone"), p.size))
    ratio = f"{kid / floor:.1f}" if floor > 0 else "none: the floor is not over zero"
    rows.append(["KID of samples to unseen drawings", f"{kid:.4f}", f"drawings to drawings: {floor:.4f}", ratio, "reported"])
    return rows


def burned_in_rows(count: int = 300) -> list[Row]:
    """How often text drawn into real pictures is found, and seen where none is."""
    rows = []
    for what, archive in (("HAM10000", "ham10000_200x150"), ("brain MRI", "rare_mri_sample")):
        with tempfile.TemporaryDirectory() as name, tarfile.open(SHARED / f"{archive}.tar") as tar:
            tar.extractall(name, filter="data")
            rows += text_rates(what, pictures(Path(name), count))
    return rows


def archive_rows(params: Params) -> list[Row]:
    """What becomes of odd files and of burned-in text; [] without ../shared/data."""
    if not SHARED.exists():
        return []
    return [*(row for name in ("odd_images", "odd_dicom") for row in odd_rows(SHARED / f"{name}.tar", params)), *burned_in_rows()]


#: What is measured, by the heading in reports/bench.md.
SECTIONS: dict[str, Callable[[Params], list[Row]]] = {
    "Speed": lambda params: [*phantom_speed(), *report_rows(params), *cpu_capability()],
    "Refining": refine_rows,
    "Refining 100,000 files": many_rows,
    "The page": lambda _: page_rows(Path.cwd()),
    "Odd and hostile files, and burned-in text": archive_rows,
    "Shortcuts": lambda _: shortcut_rows(),
    "The list of doubtful labels": lambda params: label_rows(Path("data/refined/phantom"), Path("data/splits/phantom.csv"), params),
    "models/base": base_bars,
    "Attributes asked of the LoRAs": lambda params: adapter_rows(params, Path("models/phantom/lora")),
}


def described() -> str:
    """The commit that is measured, `-dirty` when files differ from it."""
    found = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True)
    return found.stdout.strip() or "no commit"


def main() -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(SECTIONS), help="measure these sections anew and keep the others as they stand in --out")
    parser.add_argument("--out", type=Path, default=Path("reports/bench.md"))
    args = parser.parse_args()
    params = read_params()
    determinism.fix(params.threads)
    before = args.out.read_text() if args.only else ""
    kept = dict(part.split("\n\n", 1) for part in before.rstrip().split("\n\n## ")[1:])
    parts = ["# Measurements", "Written by `make bench`; each part says at which commit."]
    now = f"At {described()}, with {params.threads} threads."
    for title, measure in SECTIONS.items():
        rows = [] if args.only and title not in args.only else measure(params)
        body = f"{now}\n\n{markdown([HEAD, *rows])}" if rows else kept.get(title)
        parts += [f"## {title}", body] if body else []
    write_text(args.out, "\n\n".join(parts) + "\n")
    print("\n\n".join(parts))


if __name__ == "__main__":
    main()
