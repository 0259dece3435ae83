"""The stages of a finished run once more, without DVC, each in a fork of one process that has imported them all: twenty starts of torch fewer.

In a checkout whose params.yaml holds the values of that run:

    python -m tests.one_process DVC_LOCK
"""

from __future__ import annotations

import importlib
import multiprocessing
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import yaml


def call(main: Callable[[], None], argv: list[str]) -> None:
    """A stage's `main` with the command line `argv`."""
    sys.argv = argv
    main()


def main() -> None:
    """Run the commands of DVC_LOCK in its order, which is the one they ran in, all but the frozen `pretrain`."""
    stages = yaml.safe_load(Path(sys.argv[1]).read_text())["stages"]
    commands = [shlex.split(stage["cmd"].removeprefix("$LAUNCH ")) for name, stage in stages.items() if name != "pretrain"]
    modules = {name: importlib.import_module(name) for name in sorted({name for _, _, name, *_ in commands})}  # python -m NAME
    fork = multiprocessing.get_context("fork")
    for _, _, name, *argv in commands:
        child = fork.Process(target=call, args=(modules[name].main, [name, *argv]))
        child.start()
        child.join()
        if child.exitcode:
            raise SystemExit(f"{shlex.join([name, *argv])} ended with {child.exitcode}")


if __name__ == "__main__":
    main()
