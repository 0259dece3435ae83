"""Print a draft dataset card made by looking at a folder; comments in it say what a person must check.

In:  PATH, one of: a folder with class folders, with a csv (columns of file, label, patient, age, ..., or a column per class),
     or with images alone; a MedMNIST archive, or a folder that holds one; the name of a MedMNIST set.
Out: the card on stdout, as YAML. It passes the check of cards (`read_card`) as it is; refine it only after you have read it.

    python -m stages.card PATH > data/NAME.yaml
    python -m stages.card data/raw/clinic
    python -m stages.card breastmnist
"""

from __future__ import annotations

import argparse
from pathlib import Path

import yaml

from stages.dataset.card import Card
from stages.dataset.draft import write_draft
from stages.dataset.look import look
from stages.runtime.errors import run


def main() -> None:
    """Look, write, check that the card is valid, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path, metavar="PATH")
    args = parser.parse_args()
    text = write_draft(look(args.path))
    Card.model_validate(yaml.safe_load(text))
    print(text, end="")


if __name__ == "__main__":
    run(main)
