"""Fuzzing by mutation of real files, with fixed seeds, through the guarded worker that refining uses: a file costs itself at most."""

from __future__ import annotations

import tarfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from stages.imaging.refining import Refined, refine_file
from stages.runtime.guarded import Done, Failed, Limits, guarded
from stages.runtime.params import read_params
from tests.repository import ROOT
from tests.test_decode import ODD, mutated
from tests.test_dicom import ODD_DICOM

SMALL = 60_000  # bytes
EACH = 4  # mutations of a file
P = read_params(ROOT / "params.yaml").refine


@pytest.mark.skipif(not ODD.exists(), reason="needs ../shared/data")
@pytest.mark.parametrize(("archive", "kept", "seed"), [(ODD, 0, 3), (ODD_DICOM, 132, 5)])
def test_mutated_real_files_are_refined_or_refused_and_cost_themselves_at_most(archive: Path, kept: int, seed: int, tmp_path: Path) -> None:
    """`kept` bytes at the start stay: without its mark a DICOM file would only be told that it is none."""
    rng = np.random.default_rng(seed)
    with tarfile.open(archive) as tar:
        members = [m for m in sorted(tar, key=lambda m: m.name) if m.isfile() and 2 * kept < m.size < SMALL][::3]
        for k, member in enumerate(members):
            data = tar.extractfile(member).read()  # type: ignore[union-attr]  # a regular file
            for n in range(EACH):
                (tmp_path / f"{k:03d}-{n}").write_bytes(data[:kept] + mutated(data[kept:], rng))
    names = sorted(path.name for path in tmp_path.iterdir())
    images, ends = dict.fromkeys(names, 0), dict[str, Done | Failed]()
    for name, answer in guarded(partial(refine_file, tmp_path, P.size, P.frames), names, Limits(P.file_seconds, P.file_memory_mb), 2):
        if isinstance(answer, Refined):
            images[name] += 1
        elif isinstance(answer, Done | Failed):
            ends[name] = answer
    lost = [end.reason for end in ends.values() if isinstance(end, Failed)]
    assert sorted(ends) == names and len(names) > 100
    assert not any(reason.startswith("took longer") for reason in lost) and len(lost) < 0.05 * len(names), lost
    assert 0.05 < np.mean([count > 0 for count in images.values()]) < 0.95
