"""The predictor and the page under load: memory that stays flat, and many sessions at once that each get their own answer."""

from __future__ import annotations

import gc
import os
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from app import artifacts, uploads
from app.explain import Explainer
from app.frame import READ_AT
from stages.classifier.prediction import interpret, open_model
from stages.classifier.predictor import Predictor
from stages.classifier.reading import Seen, read
from tests.test_app import open_page, upload
from tests.tiny_root import SIZE, build, phantom_png

SESSIONS = 20
CASES = ("df", "vasc", "df", "vasc")  # of which a drawing each is read
GROWTH_MB = 15  # over 500 predictions; keeping the activations of each would take 2,000


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("root"))


@pytest.fixture(scope="module")
def predictor(root: Path) -> Predictor:
    return open_model(root / "models/phantom/combined")


def images(count: int) -> NDArray[np.uint8]:
    """Different images, (count, SIZE, SIZE, 3)."""
    return np.random.default_rng(0).integers(0, 256, (count, SIZE, SIZE, 3), dtype=np.uint8)


def resident() -> float:
    """MB of memory that this process holds now."""
    gc.collect()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")
def test_memory_stays_flat_over_500_predictions(predictor: Predictor, root: Path) -> None:
    explainer = Explainer(predictor, artifacts.places(root)[0])

    def session(count: int) -> None:
        for k, image in enumerate(images(count)):
            interpret(predictor.members(image[None], predictor.seeds[:1])[:, 0], predictor.info)  # one network of the two, for time
            if k % 20 == 0:  # dearer, and a leak would show in as few: hooks and gradients hang on networks that all sessions share
                predictor.refusals(image[None])
                explainer.heat(image, 0)

    session(20)
    before = resident()
    session(500)
    assert resident() - before < GROWTH_MB


def test_a_session_forgets_the_pictures_of_the_case_before(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures: list[weakref.ref[NDArray[np.uint8]]] = []

    def read_here(data: bytes, *sizes: int) -> Seen:
        views = [read(data, size) for size in sizes]  # not in a process of its own: for time
        pictures.extend(weakref.ref(view) for view in views)
        return Seen(views, 1)

    monkeypatch.setattr(uploads, "read", read_here)
    page, alive, kept, cases = open_page(root, monkeypatch), [], [], []
    for label in CASES:
        upload(page, phantom_png(label))
        assert not page.exception and not page.error
        gc.collect()
        alive.append(sum(picture() is not None for picture in pictures))
        kept.append(len(page.session_state))
        cases.append(page.session_state[READ_AT][0])
    assert len(pictures) == 2 * len(CASES) and max(alive) <= 2, alive  # of a case, what the model sees and what the page shows
    assert len(set(kept)) == 1, kept  # answers to earlier cases are gone too
    assert cases[0] != cases[1] and cases[:2] == cases[2:]


def test_twenty_sessions_at_once_get_what_one_alone_gets(predictor: Predictor, root: Path) -> None:
    explainer = Explainer(predictor, artifacts.places(root)[0])

    def session(image: NDArray[np.uint8]) -> tuple[NDArray[np.float64], list[str | None], NDArray[np.float32]]:
        return predictor.members(image[None]), predictor.refusals(image[None]), explainer.heat(image, 1)

    asked = images(SESSIONS)
    alone = [session(image) for image in asked]
    with ThreadPoolExecutor(SESSIONS) as pool:
        together = list(pool.map(session, asked))
    for (p, why, warmth), (p_alone, why_alone, warmth_alone) in zip(together, alone, strict=True):
        assert why == why_alone
        np.testing.assert_allclose(p, p_alone, atol=1e-6)
        np.testing.assert_allclose(warmth, warmth_alone, atol=1e-5)
    assert len({p.tobytes() for p, *_ in alone}) == SESSIONS  # the answers differ, or mixing them up would not show
