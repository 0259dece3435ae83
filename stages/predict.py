"""A tracked model on any image files: a model folder and a file or folder in, a table with one row a file out.

    python -m stages.predict MODEL_DIR INPUT OUTPUT.csv

Columns: file (its path under INPUT), status, reason, predicted, p_<class> (calibrated, 0..1), present_<disease> (yes, no,
cannot say) per rare disease, conformal_set (the classes at 90% coverage joined by ';'; "none" where no class fits, empty where it is
not offered).
`status` is ok, refused (an image, but one on which the model may not speak: unlike those it knows, dark, blurred, tiny, blank, mostly
cropped) or error (not an image that can be read). Of a file with several frames the first is read. A bad file costs its own row,
never the run, even one that hangs or crashes what opens it; a model that is missing or was changed stops it.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from stages.runtime import determinism

import numpy as np
import pandas as pd

from stages.classifier.prediction import Result, answers, open_model
from stages.classifier.predictor import Predictor
from stages.classifier.reading import read_files
from stages.imaging.decode import Refused, Unusable
from stages.runtime.errors import UserError, run
from stages.runtime.files import write_text
from stages.runtime.names import printable
from stages.runtime.progress import progress

BATCH = 64
COVERAGE = "0.90"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", type=Path, help="folder of a regime, e.g. models/phantom/combined")
    parser.add_argument("input", type=Path, help="an image file, or a folder that is read with its subfolders")
    parser.add_argument("output", type=Path, help="the CSV to write")
    args = parser.parse_args()
    if args.output.is_dir():
        raise UserError(f"{args.output} is a folder; name the CSV file to write")
    files = list_files(args.input, args.output)
    determinism.fix(len(os.sched_getaffinity(0)))
    predictor = open_model(args.model)
    rows = list(progress(table_rows(predictor, args.input, files), "predict", "file", len(files)))
    text = pd.DataFrame(rows, columns=columns(predictor)).to_csv(index=False, lineterminator="\n")
    try:
        write_text(args.output, text)
    except OSError as error:
        raise UserError(f"{args.output} cannot be written: {error.strerror}") from None
    counts = {status: sum(row["status"] == status for row in rows) for status in ("ok", "refused", "error")}
    print(f"{args.output}: " + ", ".join(f"{n} {status}" for status, n in counts.items()))


def list_files(source: Path, output: Path) -> list[Path]:
    """Every file under `source`, hidden ones too, and what cannot be looked into, sorted by path; the table itself is left out.

    `UserError` when there is no `source`, or the table would take its place.
    """
    if source.is_dir():
        closed: list[Path] = []
        found: list[Path] = []
        for folder, below, names in os.walk(source, onerror=lambda error: closed.append(Path(str(error.filename)))):
            found += [Path(folder) / name for name in names] + [link for name in below if (link := Path(folder) / name).is_symlink()]
        return sorted((f for f in found + closed if f.absolute() != output.absolute()), key=os.fspath)
    if not source.exists():
        raise UserError(f"{source} does not exist")
    if source.resolve() == output.resolve():
        raise UserError(f"{output} is the image itself; name another file for the table")
    return [source]


def table_rows(predictor: Predictor, source: Path, files: list[Path]) -> Iterator[dict[str, str]]:
    """A row per file, in order, predicted in batches."""
    readings = read_files(files, predictor.size, len(os.sched_getaffinity(0)))
    while batch := list(islice(readings, BATCH)):
        images = [reading for _, reading in batch if not isinstance(reading, Refused)]
        told = iter(answers(predictor, np.stack(images)) if images else [])
        for path, reading in batch:
            name = path.name if path == source else path.relative_to(source).as_posix()
            row = {"file": printable(name)}
            answer = reading if isinstance(reading, Refused) else next(told)
            if isinstance(answer, Refused):
                yield row | {"status": "refused" if isinstance(answer, Unusable) else "error", "reason": str(answer)}
            else:
                yield row | {"status": "ok", "reason": "", **fields(answer)}


def fields(result: Result) -> dict[str, str]:
    """A result as the columns of the table."""
    return {
        "predicted": result.predicted,
        **{f"p_{name}": f"{p:.6f}" for name, p in result.probabilities.items()},
        **{f"present_{disease}": answer for disease, answer in result.present.items()},
        "conformal_set": "" if (names := result.conformal.get(COVERAGE)) is None else ";".join(names) or "none",
    }


def columns(predictor: Predictor) -> list[str]:
    """The columns in order."""
    chances, diseases = [f"p_{c}" for c in predictor.classes], [f"present_{d}" for d in sorted(predictor.info["thresholds"])]
    return ["file", "status", "reason", "predicted", *chances, *diseases, "conformal_set"]


if __name__ == "__main__":
    run(main)
