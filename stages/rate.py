"""Score a person's answers on the blinded sheet of the audit: could they tell synthetic images from real ones?

In:  FORM.csv (a filled copy of AUDIT_DIR/rating_form.csv: number,answer with real or synthetic), AUDIT_DIR (rating_key.csv).
Out: text on stdout.

    python -m stages.rate FORM.csv AUDIT_DIR
    python -m stages.rate my_answers.csv reports/phantom/audit
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd

from stages.metrics.rating import KEY, read_form, result
from stages.runtime.errors import UserError, run


def main() -> None:
    """Read, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("form", type=Path, metavar="FORM.csv")
    parser.add_argument("audit", type=Path, metavar="AUDIT_DIR")
    args = parser.parse_args()
    if not (args.audit / KEY).exists():
        raise UserError(f"{args.audit} holds no {KEY}: run `dvc repro audit` first")
    key = pd.read_csv(args.audit / KEY, dtype={"id": str})
    found = result(read_form(args.form, key), key)
    for name, share in found.items():
        what = "right answers" if name == "all" else f"{name} images that were called {name}"
        print(f"{what}: {share['value']:.0%} of {share['n']} (95% {share['low']:.0%} to {share['high']:.0%})")
    told = found["all"]
    print("told apart better than by guessing" if told["low"] > 0.5 else "no evidence of telling them apart: guessing gives 50%")
    if told["n"] < len(key):
        print(f"{len(key) - told['n']} of {len(key)} images have no answer")


if __name__ == "__main__":
    run(main)
