"""Print the table of regimes and the verdict of a finished run.

In:  REPORT_DIR (metrics/<regime>.json, verdict.json, verdict.md).
Out: text on stdout.

    python -m stages.summary REPORT_DIR
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from stages.metrics.verdict import aa_statement, difference_rows, score_rows
from stages.runtime.errors import UserError, run
from stages.runtime.files import read_json
from stages.runtime.markdown import markdown


def read_report(folder: Path) -> tuple[dict[str, Any], dict[str, dict[str, float]], str]:
    """verdict.json, metrics/<regime>.json by regime, and the answer in words; `UserError` when there is no report."""
    if not (folder / "verdict.json").exists():
        raise UserError(f"{folder} holds no verdict.json: run `make reproduce` (or dvc repro) first")
    metrics = {path.stem: read_json(path) for path in sorted((folder / "metrics").glob("*.json"))}
    return read_json(folder / "verdict.json"), metrics, (folder / "verdict.md").read_text().splitlines()[0].removeprefix("# ")


def summary(folder: Path) -> str:
    """The tables and the answer of the report in `folder`; `UserError` when there is none."""
    verdict, metrics, answer = read_report(folder)
    n = f"Test: {verdict['n_test_lesions']} lesions; seeds: {len(verdict['seeds'])}; details: {folder / 'verdict.md'}"
    return "\n\n".join([markdown(score_rows(metrics)), markdown(difference_rows(verdict)), aa_statement(verdict), answer, n])


def main() -> None:
    """Print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report_dir", type=Path)
    print(summary(parser.parse_args().report_dir))


if __name__ == "__main__":
    run(main)
