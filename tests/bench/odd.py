"""What becomes of odd, broken and hostile files: rows for reports/bench.md, from the archives in ../shared/data."""

from __future__ import annotations

import io
import resource
import tarfile
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from PIL import Image
from pydicom import dcmread

from stages.imaging.decode import Frames
from stages.imaging.refining import Refined, refine_file
from stages.runtime.guarded import Failed, Limits, guarded
from stages.runtime.params import Params

SLOW = 10.0  # seconds that no file may take
WORKER_MB = 1024


def tried(folder: Path, size: int, frames: Frames, file: str) -> Iterator[tuple[str, bool, float, float]]:
    """refined, blank or tiny (refined, and marked so) or refused; whether Pillow or pydicom can plainly decode it; seconds that `refine_file` took;
    MB that this worker has ever held."""
    start = time.perf_counter()
    *_, last = refine_file(folder, size, frames, file)
    took = time.perf_counter() - start
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    outcome = ("blank or tiny" if last.unusable else "refined") if isinstance(last, Refined) else "refused"
    yield outcome, plain((folder / file).read_bytes()), took, memory


def plain(data: bytes) -> bool:
    """Whether the libraries decode the first picture without any help."""
    for read in (lambda: Image.open(io.BytesIO(data)).load(), lambda: dcmread(io.BytesIO(data)).pixel_array):
        try:
            read()
        except Exception:
            continue
        return True
    return False


def odd_rows(archive: Path, params: Params) -> list[list[str]]:
    """Rows of `make bench` for one archive; its files are opened as the stage opens them."""
    p = params.refine
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")
        files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        found: dict[str, tuple[str, bool, float, float]] = {}
        failed: dict[str, str] = {}
        for file, answer in guarded(partial(tried, folder, p.size, p.frames), files, Limits(p.file_seconds, p.file_memory_mb), params.threads):
            if isinstance(answer, Failed):
                failed[file] = answer.reason
            elif isinstance(answer, tuple):
                found[file] = answer
    outcomes = [outcome for outcome, *_ in found.values()]
    plainly = [outcome != "refused" for outcome, easy, *_ in found.values() if easy]
    slowest, memory = max(took for *_, took, _ in found.values()), max(held for *_, held in found.values())
    marked, refined = outcomes.count("blank or tiny"), len(outcomes) - outcomes.count("refused")
    ends = f"{refined} refined, {marked} of them marked as blank or tiny, {outcomes.count('refused')} refused"
    what = f"{archive.name}, {len(files)} files"
    return [
        [f"{what}: accounted for ({ends})", str(len({*found, *failed})), f"all: {len(files)}", f"{len({*found, *failed}) / len(files):.2f}", "1"],
        [f"{what}: hung, crashed or ran out of memory", str(len(failed)), "limit: 0", "-", "0"],
        [f"{what}: slowest file", f"{slowest:.2f} s", f"limit: {SLOW:.0f} s", f"{slowest / SLOW:.2f}", "under 1"],
        [f"{what}: peak memory of a worker", f"{memory:.0f} MB", f"limit: {WORKER_MB} MB", f"{memory / WORKER_MB:.2f}", "under 1"],
        [f"{what}: refined of what Pillow or pydicom decode", f"{sum(plainly)}", f"{len(plainly)}", f"{sum(plainly) / len(plainly):.2f}", "0.9 or more"],
    ]  # fmt: skip
