"""Text to image for a person: what a sentence asks for, and the images of it, each judged, the wrong ones drawn again.

Prints nothing: `stages.sample` and the page both call it.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from stages.dataset.card import Card
from stages.diffusion import adapter
from stages.diffusion.base import load_base
from stages.diffusion.sampling import TEXT, Request, Sampler
from stages.diffusion.selection import BROKEN, EMPTY, FLAT, JUDGE, to_pixels
from stages.runtime.determinism import seed_of
from stages.runtime.errors import UserError
from stages.runtime.params import Generate


@dataclass(frozen=True)
class Order:
    """What a text asks for: the `prompt` (a rare disease as its token), the class `label` that it names, if any, and whether that is rare.

    `words` are those of the text that stand in the prompt as they are.
    """

    prompt: str
    label: str | None
    rare: bool
    words: list[str]


def understand(text: str, card: Card, rare: Sequence[str]) -> Order:
    """Find the card's titles and synonyms in `text` (upper or lower case, a plural s too), the longest first.

    A rare disease, with the article before it, becomes its token; a common class's synonyms become its title, by which the base knows it.
    Raises `UserError` for an empty text and for one that names several classes: an image shows one.
    """
    if not text.strip():
        raise UserError("the text is empty: say what to draw, e.g. 'a dermoscopic image of a melanoma on dark skin'")
    names = [(re.sub(r"^an? ", "", name), key) for key, kind in card.classes.items() for name in (kind.title, *kind.synonyms)]
    found: dict[str, str] = {}
    left, prompt = text, text
    for name, key in sorted(names, key=lambda n: (-len(n[0]), n)):
        pattern = re.compile(rf"\b(?:an?\s+)?{re.escape(name)}s?\b" if key in rare else rf"\b{re.escape(name)}s?\b", re.IGNORECASE)
        if pattern.search(left):
            found[key] = name
            left = pattern.sub(lambda match: " " * len(match[0]), left)
            prompt = pattern.sub(adapter.placeholder(key) if key in rare else re.sub(r"^an? ", "", card.classes[key].title), prompt)
    if len(found) > 1:
        kind = "rare diseases" if set(found) <= set(rare) else "classes"
        raise UserError(f"the text names {len(found)} {kind} ({', '.join(found[key] for key in sorted(found))}); an image shows one: name one")
    label = next(iter(found), None)
    is_rare = label in rare
    return Order(" ".join(prompt.split()), label, is_rare, re.findall(r"[^\W\d_]+", left if is_rare else prompt))


class Judge(Protocol):
    """What `stages.classifier.judge.Judge` offers: the classes in order, the least probability to accept, whether its images have no
    colour, (N, C) probabilities."""

    classes: list[str]
    accept: float
    colourless: bool

    def probabilities(self, images: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Of (N, H, W, 3) uint8 images."""


class Painter:
    """A base, with a disease's token and LoRA on it or without: what draws. Loading takes seconds; keep one per disease."""

    def __init__(self, base_dir: Path, lora_dir: Path | None, p: Generate) -> None:
        """`lora_dir` is the disease's adapter, None for a common class or none. `LawError` when a file is not the recorded one."""
        self.pipe, base = load_base(base_dir)
        self.hashes = (str(base["hash"]), "")
        if lora_dir is not None:
            if not (lora_dir / adapter.INFO).exists():
                raise UserError(f"{lora_dir / adapter.INFO} does not exist: learn the disease first (dvc repro lora_train)")
            info = adapter.load_adapter(self.pipe, lora_dir, base["hash"])
            adapter.require_effect(self.pipe, lora_dir, info["token"])
            adapter.fuse(self.pipe)
            self.hashes = (base["hash"], info["adapter_hash"])
        self.sampler = Sampler(self.pipe, {}, p.steps, p.guidance)

    def unknown(self, order: Order) -> list[str]:
        """The words of `order` that the tokenizer does not know as whole tokens: it spells them, and the base hardly heeds them.

        `UserError` when the text is longer than what the text encoder reads.
        """
        tokenizer = self.pipe.tokenizer
        length, most = len(tokenizer(self.pipe.maybe_convert_prompt(order.prompt, tokenizer)).input_ids), int(tokenizer.model_max_length)
        if length > most:
            raise UserError(f"the text takes {length} tokens, and the base reads {most}: use fewer words, and such as it knows (others are spelled)")
        words = dict.fromkeys(word.lower() for word in order.words)
        return [word for word in words if len(tokenizer(word, add_special_tokens=False).input_ids) > 1]


@dataclass(frozen=True)
class Picture:
    """One image asked for: the `number`-th, as drawn in its best attempt of `attempts` (`seed` is that attempt's).

    `pixels` (S, S, 3) uint8, None when no attempt was finite; `probability` is the judge's for the class, NaN when the text names none.
    `reason` is empty when it was accepted, otherwise why not.
    """

    number: int
    pixels: NDArray[np.uint8] | None
    seed: int
    attempts: int
    probability: float
    reason: str

    @property
    def accepted(self) -> bool:
        """Whether it shows something, and the judge finds in it what the text names."""
        return not self.reason


def paint(
    painter: Painter, order: Order, count: int, judge: Judge | None, size: int, p: Generate, *,
    seed: int = 0, tick: Callable[[int], object] = lambda _: None, stop: Callable[[], bool] = lambda: False,
) -> Iterator[Picture]:  # fmt: skip
    """Yield `count` pictures of `order`, `size` px square, each as soon as it is decided; fewer when `stop()` says so (asked before each batch).

    An image that is broken, flat, or in which `judge` gives the named class less than it accepts, is drawn again, up to
    `p.max_attempts` times in all; then the attempt that was judged best is yielded, not accepted. `tick(n)` hears of n images drawn.
    Where the images that `judge` learned from have no colour, the pictures have none either (`to_pixels`).
    The picture of a number depends on base, adapter, prompt, number, attempt and `seed` alone, never on `count` or batches.
    """
    queue = deque((number, 0) for number in range(count))
    best: dict[int, Picture] = {}
    grey = judge is not None and judge.colourless
    while queue and not stop():
        turns = [queue.popleft() for _ in range(min(len(queue), painter.sampler.chunk))]
        requests = [
            Request(n, a, TEXT, order.prompt, None, None, seed_of(*painter.hashes, order.prompt, TEXT, None, None, n, a, seed)) for n, a in turns
        ]
        images = [to_pixels(image, size, grey) for image in painter.sampler(requests, tick)]
        for request, image in zip(requests, images, strict=True):
            number, attempt = request.slot, request.attempt
            probability = float("nan")
            if image is None:
                reason = BROKEN
            else:
                if judge is not None and order.label is not None:
                    probability = float(judge.probabilities(image[None])[0, judge.classes.index(order.label)])
                reason = EMPTY if image.std() / 255 < FLAT else JUDGE if judge is not None and probability < judge.accept else ""
            picture = Picture(number, image, request.seed, attempt + 1, probability, reason)
            if number not in best or _rank(picture) > _rank(best[number]):
                best[number] = picture
            if picture.accepted or attempt + 1 == p.max_attempts:
                kept = best.pop(number)
                yield Picture(number, kept.pixels, kept.seed, attempt + 1, kept.probability, kept.reason)
            else:
                queue.append((number, attempt + 1))


def _rank(picture: Picture) -> tuple[bool, bool, float]:
    """Accepted before rejected, something to see before nothing, then by the judge."""
    return picture.accepted, picture.reason == JUDGE, picture.probability
