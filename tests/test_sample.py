"""Text to image: what a sentence asks for, images judged and drawn again, and what the command writes."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from app.artifacts import Place
from app.drawing import Drawing
from stages import lora_train, sample
from stages.dataset.card import Class, read_card
from stages.diffusion.ordering import Order, Picture, paint, understand
from stages.diffusion.sampling import Request
from stages.diffusion.selection import BROKEN, EMPTY, JUDGE
from stages.imaging.watermark import is_marked
from stages.runtime.errors import UserError
from stages.runtime.params import read_params
from tests.tiny_disease import REPOSITORY, FakeJudge, build, stage

CARD = read_card(REPOSITORY / "data/phantom.yaml")
RARE = ["df", "vasc"]

# --- what a text asks for


@pytest.mark.parametrize(
    ("text", "prompt", "label"),
    [
        ("a dermoscopic image of a vascular lesion on dark skin", "a dermoscopic image of <vasc> on dark skin", "vasc"),
        ("An Angioma,  on the back", "<vasc>, on the back", "vasc"),
        ("angiomas", "<vasc>", "vasc"),
        ("a histiocytoma, that is a dermatofibroma", "<df>, that is <df>", "df"),
        ("a dermoscopic image of melanoma", "a dermoscopic image of melanoma", "mel"),
        ("a Mole on tan skin", "a melanocytic nevus on tan skin", "nv"),
        ("a dermoscopic image of skin", "a dermoscopic image of skin", None),
        ("an angiomatous patch", "an angiomatous patch", None),
    ],
)
def test_titles_and_synonyms_of_a_rare_disease_become_its_token(text: str, prompt: str, label: str | None) -> None:
    order = understand(text, CARD, RARE)
    assert (order.prompt, order.label, order.rare) == (prompt, label, label in RARE)


def test_the_longest_name_is_found_first() -> None:
    card = CARD.model_copy(update={"classes": CARD.classes | {"nv": Class(title="a lesion")}})
    assert understand("a vascular lesion", card, RARE).label == "vasc"
    assert understand("some lesion", card, RARE).label == "nv"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("a vascular lesion beside a dermatofibroma", r"names 2 rare diseases \(dermatofibroma, vascular lesion\).*name one"),
        ("an angioma and a melanoma", r"names 2 classes \(melanoma, angioma\)"),
        (" ", "the text is empty"),
    ],
)
def test_a_text_that_no_image_can_show_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        understand(text, CARD, RARE)


# --- drawing, with a sampler of noise and a judge that wants bright red

P = read_params(REPOSITORY / "params.yaml").generate.model_copy(update={"max_attempts": 4})
ORDER = Order("<df>", "df", True, [])


class Noise:
    """Stands in for the sampler: images of noise by their seeds; `odd` are given for (number, attempt)."""

    chunk = 3

    def __init__(self, odd: dict[tuple[int, int], float] | None = None) -> None:
        self.odd = odd or {}

    def __call__(self, requests: Sequence[Request], tick: Any) -> NDArray[np.float32]:
        tick(len(requests))
        images = [np.random.default_rng(r.seed).random((8, 8, 3), np.float32) for r in requests]
        return np.stack(
            [np.full_like(i, self.odd[at]) if (at := (r.slot, r.attempt)) in self.odd else i for i, r in zip(images, requests, strict=True)]
        )


class Reddish:
    """Gives df the red of the first pixel, 0 to 1."""

    classes = FakeJudge.classes

    def __init__(self, accept: float, colourless: bool = False) -> None:
        self.accept, self.colourless = accept, colourless

    def probabilities(self, images: NDArray[np.uint8]) -> NDArray[np.float64]:
        """(N, 7), df in place 3."""
        out = np.zeros((len(images), 7))
        out[:, 3] = images[:, 0, 0, 0] / 255
        return out


def drawn(count: int, accept: float = 0.5, order: Order = ORDER, odd: dict[tuple[int, int], float] | None = None, **more: Any) -> dict[int, Picture]:
    """The pictures by number."""
    painter: Any = SimpleNamespace(sampler=Noise(odd), hashes=("b", "a"))
    return {picture.number: picture for picture in paint(painter, order, count, Reddish(accept), 8, P, **more)}


def test_wrong_images_are_drawn_again_and_the_best_try_is_shown_when_none_is_right() -> None:
    ticks: list[int] = []
    pictures = drawn(12, tick=ticks.append)
    assert sorted(pictures) == list(range(12))
    assert sum(p.attempts for p in pictures.values()) == sum(ticks)
    assert all(p.accepted == (p.probability >= 0.5) for p in pictures.values())
    assert max(p.attempts for p in pictures.values()) > 1
    hopeless = drawn(12, accept=1.1)
    for number, picture in pictures.items():
        assert (hopeless[number].attempts, hopeless[number].reason) == (4, JUDGE)
        assert hopeless[number].probability >= picture.probability, "the best of all four attempts"


@pytest.mark.parametrize("grey", [True, False])
def test_pictures_for_scans_have_no_colour(grey: bool) -> None:
    painter: Any = SimpleNamespace(sampler=Noise(), hashes=("b", "a"))
    shown = [p.pixels for p in paint(painter, ORDER, 2, Reddish(0.0, grey), 8, P) if p.pixels is not None]
    assert len(shown) == 2 and all((np.ptp(pixels, axis=-1).max() == 0) == grey for pixels in shown)


def test_a_picture_does_not_hang_on_how_many_are_asked_for() -> None:
    many = drawn(7)
    for number, picture in drawn(2).items():
        np.testing.assert_array_equal(picture.pixels, many[number].pixels)
        assert picture.seed == many[number].seed
    assert drawn(2, seed=1)[0].seed != many[0].seed


def test_broken_and_empty_images_are_not_shown_as_results() -> None:
    assert drawn(1, 0.0, odd={(0, 0): np.nan, (0, 1): 0.5})[0].attempts == 3
    never = drawn(2, odd={(0, k): np.nan for k in range(4)} | {(1, k): 1.0 for k in range(4)})
    assert (never[0].pixels, never[0].reason) == (None, BROKEN)
    assert never[1].reason == EMPTY


def test_an_image_of_no_class_is_not_judged() -> None:
    picture = drawn(1, 1.1, Order("skin", None, False, ["skin"]))[0]
    assert picture.accepted and np.isnan(picture.probability)


def test_drawing_stops_when_it_is_told_to() -> None:
    asked = iter([False, True])
    assert len(drawn(9, 0.0, stop=lambda: next(asked))) == 3


# --- the command


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set phantom with base and the adapter of df, in the folders that the command reads; not to be changed."""
    root = build(tmp_path_factory.mktemp("world"))
    with pytest.MonkeyPatch.context() as patch:
        stage(root, patch, lora_train.main, "base", "models/phantom/lora/df")
    shutil.copytree(root / "base", root / "models/phantom/base")
    return root


def call(root: Path, monkeypatch: pytest.MonkeyPatch, *args: str, p: float = 0.9) -> pd.DataFrame:
    """Run the command in `root` into its folder out; returns samples.csv."""
    monkeypatch.chdir(root)
    monkeypatch.setattr(sample, "load_judge", lambda *_: FakeJudge(p))
    monkeypatch.setattr(sys, "argv", ["sample", args[0], "--n", "2", *args[1:], "out"])
    shutil.rmtree(root / "out", ignore_errors=True)
    sample.main()
    return pd.read_csv(root / "out/samples.csv")


def test_the_command_draws_marks_and_lists_images_of_a_disease_and_names_unknown_words(
    world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table = call(world, monkeypatch, "a dermoscopic image of a dermatofibroma with zebra stripes on dark skin")
    assert list(table) == ["file", "seed", "attempts", "judge_probability", "accepted", "reason"]
    assert list(table["file"]) == ["0000.png", "0001.png"] and table["accepted"].all() and set(table["judge_probability"]) == {0.9}
    assert all(is_marked((world / "out" / name).read_bytes()) for name in [*table["file"], "sheet.png"])
    said = capsys.readouterr()
    assert "does not know 'zebra', 'stripes' as words" in said.err
    assert "prompt: a dermoscopic image of <df> with zebra stripes on dark skin" in said.out
    first = (world / "out/0000.png").read_bytes()
    assert set(call(world, monkeypatch, "a dermatofibroma", p=0.1)["attempts"]) == {2}, "params.yaml's generate.max_attempts"
    call(world, monkeypatch, "a dermoscopic image of a dermatofibroma with zebra stripes on dark skin")
    assert (world / "out/0000.png").read_bytes() == first


def test_a_common_class_is_drawn_from_the_base_and_no_class_is_not_judged(
    world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table = call(world, monkeypatch, "a melanoma", p=0.4)  # the fake judge finds df, never a melanoma
    assert not table["accepted"].any() and set(table["reason"]) == {JUDGE}
    assert "prompt: a melanoma" in capsys.readouterr().out
    table = call(world, monkeypatch, "an image")
    assert not table["accepted"].any() and set(table["reason"]) == {sample.UNJUDGED} and table["file"].notna().all()
    said = capsys.readouterr()
    assert "names no class of phantom, so no image is judged" in said.err and "2 images, none judged" in said.out


def test_whoever_ends_the_command_half_way_keeps_what_is_decided(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def broken_off(*args: Any, **more: Any) -> Iterator[Picture]:
        for picture in paint(*args, **more):
            seen.append(len(pd.read_csv(world / "out/samples.csv")))
            yield picture
            if picture.number == 0:
                raise KeyboardInterrupt

    monkeypatch.setattr(sample, "paint", broken_off)
    with pytest.raises(KeyboardInterrupt):
        call(world, monkeypatch, "an image")
    table = pd.read_csv(world / "out/samples.csv")
    assert seen == [0] and list(table["file"]) == ["0000.png"] and is_marked((world / "out/0000.png").read_bytes())


def test_the_page_draws_what_the_command_draws(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = Drawing(Place(world, "phantom", True), "an image", 2, 0)
    call(world, monkeypatch, "an image")
    while own.running:
        time.sleep(0.1)
    assert not own.error()
    assert [p.image for p in own.pictures() or []] == [(world / f"out/000{k}.png").read_bytes() for k in range(2)]
    assert "no image is judged" in own.warnings()[0]


def test_what_cannot_be_drawn_is_refused(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"lora/vasc/lora\.json does not exist: learn the disease first"):
        call(world, monkeypatch, "an angioma")
    with pytest.raises(UserError, match=r"takes \d+ tokens, and the base reads 48"):
        call(world, monkeypatch, "a very " + "very " * 60 + "dark melanoma")
    (world / "full").mkdir()
    (world / "full/file").touch()
    monkeypatch.setattr(sys, "argv", ["sample", "a melanoma", "full"])
    with pytest.raises(UserError, match="full holds something already"):
        sample.main()
