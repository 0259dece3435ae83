"""Whether the tries of a study treat all regimes alike and mean what they say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Changes = Mapping[str, Mapping[str, Any]]  # knobs by block of params.yaml


def complaint(start: Mapping[str, Changes], tries: Mapping[str, Sequence[Changes]], untrained: str) -> str | None:
    """What is wrong with the `tries` of each regime, laid over its `start`, in words; None when nothing is.

    `untrained` names the control that may change `evaluate` alone; every other regime may change `mix` and its own block.
    """
    if len({len(own) for own in tries.values()}) > 1:
        return f"unequal tries: {', '.join(f'{name} has {len(own)}' for name, own in tries.items())}"
    for name, own in tries.items():
        blocks = {"mix", "evaluate" if name == untrained else f"train_{name}"}
        if other := sorted({key for changes in own for key in changes} - blocks):
            return f"a try of {name} changes {other[0]}; it may change {' and '.join(sorted(blocks))} only"
        if any("logit_tau" in changes.get(f"train_{name}", {}) for changes in own):
            return f"a try of {name} changes logit_tau; every try is scored at each of train.logit_taus"
        under = start.get(name, {})
        for block, knobs in ((block, knobs) for changes in own for block, knobs in changes.items()):
            if missing := sorted(set(knobs) - set(under.get(block, {}))):
                return f"a try of {name} changes {block}.{missing[0]}; write in start.{name} from what: {block}: {{{missing[0]}: ...}}"
        whole = [{block: {**under.get(block, {}), **changes.get(block, {})} for block in blocks} for changes in own]
        if twin := next((k for k, one in enumerate(whole) if one in whole[:k]), None):
            return f"try {twin + 1} of {name} is the same as try {whole.index(whole[twin]) + 1}, with start.{name} under both"
    return None
