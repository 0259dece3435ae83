"""Refining measured whole: its speed against two loops in one process, and its memory as the folder grows."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import yaml
from PIL import Image

from stages.dataset.store import Store
from stages.imaging.refining import refine_file
from stages.refine import refine_files
from stages.runtime.params import Params

ROOT = Path(__file__).parents[2]
ARCHIVE = ROOT.parent / "shared/data/ham10000_200x150.tar"
COUNTS = (1_000, 10_000)
MANY = 100_000
ROUNDS = 5  # the median of their ratios counts, for a machine that others use is now fast, now slow
CARD = {
    "name": "bench", "title": "Bench", "licence": "none", "citation": "none", "modality": "photograph",
    "layout": {"kind": "folders", "labels": {"images": "a"}}, "classes": {"a": {"title": "a"}},
    "prompts": {"base": ["{title}"], "a": ["{title}"]}, "risk": {"low": 0.1, "high": 0.5},
}  # fmt: skip


def refine_rows(params: Params, counts: tuple[int, int] = COUNTS) -> list[list[str]]:
    """Rows of `make bench`, on HAM10000's images of 200 by 150 px, or as many synthetic photographs where they are not there."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        few, many = folder / "few/images", folder / "many/images"
        what = place_images(many, counts[1])
        files = sorted(path.name for path in many.iterdir())
        few.mkdir(parents=True)
        for file in files[: counts[0]]:
            os.link(many / file, few / file)
        size = params.refine.size
        rounds: list[tuple[float, float, float]] = []
        stages = []
        for k in range(ROUNDS):  # one after the other in turn: another process on the machine then disturbs all alike
            with Store(folder / f"ours{k}.sqlite") as store:
                rounds.append(
                    (
                        seconds(partial(plain_loop, many, files, size, folder / f"plain{k}")),
                        seconds(partial(single_loop, many, files, params, folder / f"single{k}.sqlite")),
                        seconds(partial(refine_files, many, files, params.refine, params.threads, store)),
                    )
                )
            stages.append(stage(many.parent, params))
        plain, single, ours = (median(times) for times in zip(*rounds, strict=True))
        whole = median(took for _, took in stages)
        by_single, by_plain = ([one[k] / one[2] for one in rounds] for k in (1, 0))
        memory_few, _ = stage(few.parent, params)
        memory_many, _ = max(stages)
    label = f"refine, {len(files):,} {what}, with every check"
    rows = [
        [label, f"{ours:.1f} s", f"one process, the same work: {single:.1f} s", ratios(by_single), "1.7 or more on 2 cores"],
        [label, f"{ours:.1f} s", f"plain open, resize, save: {plain:.1f} s", ratios(by_plain), "1.0 or more"],
        [
            "the stage refine, whole: copies sought, table written",
            f"{whole:.1f} s",
            f"plain open, resize, save: {plain:.1f} s",
            ratios([one[0] / took for one, (_, took) in zip(rounds, stages, strict=True)]),
            "1.0 or more",
        ],
        ["the stage refine, whole", f"{whole:.1f} s", f"of which files: {ours:.1f} s", f"{whole / ours:.2f}", "reported"],
    ]
    return rows + memory_rows(memory_few, memory_many, counts)


def ratios(found: list[float]) -> str:
    """The median of the rounds' ratios, with the least and the greatest."""
    return f"{median(found):.2f} ({min(found):.2f} to {max(found):.2f})"


def many_rows(params: Params, counts: tuple[int, int] = (COUNTS[1], MANY)) -> list[list[str]]:
    """Rows of `make bench` on the stage refine with as many files as it is made for: synthetic photographs of 200 by 150 px."""
    memory, took = [], []
    for count in counts:
        with tempfile.TemporaryDirectory() as name:
            place_images(Path(name, "data/images"), count, real=False)
            peaks, seconds_taken = stage(Path(name, "data"), params)
        memory.append(peaks)
        took.append(seconds_taken)
    few, many = counts
    rows = [
        [
            f"the stage refine, whole: {many:,} synthetic photographs",
            f"{took[1]:.0f} s",
            f"{few:,}: {took[0]:.1f} s, times {many // few}",
            f"{took[1] / (took[0] * many / few):.2f}",
            "about 1",
        ]
    ]
    return rows + memory_rows(memory[0], memory[1], counts)


def memory_rows(few: tuple[float, float], many: tuple[float, float], counts: tuple[int, int]) -> list[list[str]]:
    """The peak memory (MB) of the main process and of a worker on the larger of two folders, beside the smaller."""
    return [
        [
            f"peak memory of {who}, {counts[1]:,} files",
            f"{other:.0f} MB",
            f"{counts[0]:,} files: {one:.0f} MB",
            f"{other / one:.2f}",
            "about 1; a worker under 1,024 MB",
        ]
        for who, one, other in zip(("the main process", "a worker"), few, many, strict=True)
    ]


def place_images(folder: Path, count: int, real: bool = True) -> str:
    """Put `count` images into `folder`, those of HAM10000 where they are at hand and `real`; returns what they are."""
    folder.mkdir(parents=True)
    if real and ARCHIVE.exists():
        with tarfile.open(ARCHIVE) as tar:
            pictures = (member for member in tar if member.name.endswith(".jpg"))
            for _, member in zip(range(count), pictures, strict=False):
                (folder / Path(member.name).name).write_bytes(tar.extractfile(member).read())  # type: ignore[union-attr]  # a regular file
        return "images of HAM10000"
    rng = np.random.default_rng(0)
    for i in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (15, 20, 3), dtype=np.uint8))
        coarse.resize((200, 150), Image.Resampling.BICUBIC).save(folder / f"{i:05d}.jpg", quality=90)
    return "synthetic photographs"


def plain_loop(folder: Path, files: list[str], size: int, out: Path) -> None:
    """What a first script would do: open, crop, resize and save each file, one after the other, without any check."""
    out.mkdir()
    for file in files:
        with Image.open(folder / file) as picture:
            upright = picture.convert("RGB")
            side = min(upright.size)
            upright.crop((0, 0, side, side)).resize((size, size), Image.Resampling.LANCZOS).save(out / f"{file}.png")


def single_loop(folder: Path, files: list[str], params: Params, path: Path) -> None:
    """What `refine_files` does, in this process and without a guard."""
    with Store(path) as store:
        for file, state in store.unfinished(folder, files).items():
            for frame in refine_file(folder, params.refine.size, params.refine.frames, file):
                assert not isinstance(frame, str), "every file of the benchmark can be refined"
                store.add(file, frame)
            store.finish(file, state, None)


def stage(folder: Path, params: Params) -> tuple[tuple[float, float], float]:
    """Run the stage on `folder`; the peak memory (MB of 2**20 bytes, resident) of its main process and of its largest worker, and its seconds."""
    values = params.model_dump()
    values["refine"] |= {"max_cluster_share": 1.0}
    (folder / "params.yaml").write_text(yaml.safe_dump(values))
    (folder / "card.yaml").write_text(yaml.safe_dump(CARD))
    # The images lie beside the card, so the two YAML files end in quarantine.
    return watched(folder, "stages.refine", "card.yaml", ".", "../out")


def watched(folder: Path, stage: str, *arguments: str) -> tuple[tuple[float, float], float]:
    """Run a stage in `folder`; the peak memory (MB) of its main process and of its largest worker, and its seconds."""
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", stage, *arguments], cwd=folder, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL
    )
    peak = {"main": 0.0, "worker": 0.0}
    while process.poll() is None:
        peak["main"] = max(peak["main"], high_water(process.pid))
        with suppress(OSError):
            for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
                peak["worker"] = max(peak["worker"], high_water(int(child)))
        time.sleep(0.05)
    assert process.returncode == 0
    return (peak["main"], peak["worker"]), time.perf_counter() - start


def high_water(pid: int) -> float:
    """The peak resident memory of a process, MB; 0 when it is gone or is just being started."""
    try:
        status, command = Path(f"/proc/{pid}/status").read_text(), Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return 0.0
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(found[1]) / 1024 if found and "stages" in command else 0.0


def seconds(work: Callable[[], object]) -> float:
    """Wall-clock seconds of `work`."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
