"""Which images a model may not speak on: foreign ones nearly all, its own kind rarely and of every class alike."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from scipy.stats import binom
from sklearn.datasets import load_sample_images

from stages.classifier import backbone, ood
from stages.classifier.predictor import Predictor, load
from stages.classifier.reading import read
from stages.imaging.decode import Unusable
from stages.imaging.phantoms import CLASSES
from stages.imaging.refining import encode_png
from stages.runtime.errors import LawError
from tests import tiny_ham
from tests.tiny_root import REPOSITORY, SIZE, add_known, drawings, known_images, write_model


XRAYS = REPOSITORY.parent / "shared/data/medmnist/pneumoniamnist.npz"


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    """The shipped backbone, from which every regime starts, as an ensemble of one."""
    network = backbone.build("test_resnet", len(CLASSES), REPOSITORY / "models/base/backbone")
    known, record = known_images({1: network}, 20)
    return Predictor({"classes": list(CLASSES), "seeds": [1], "transform": {"size": SIZE}, "ood": record}, {"1": network}, known)


def share(predictor: Predictor, images: NDArray[np.uint8]) -> float:
    return float(np.mean([why is not None for why in predictor.refusals(images)]))


def chest(rng: np.random.Generator) -> NDArray[np.uint8]:
    """What a chest X-ray looks like from afar: a bright trunk, two dark lungs, a heart."""
    y, x = np.mgrid[-1 : 1 : SIZE * 1j, -1 : 1 : SIZE * 1j]
    wide, tall = rng.uniform(0.25, 0.35), rng.uniform(0.5, 0.7)
    lungs = sum(np.exp(-((((x - side) / wide) ** 2 + (y / tall) ** 2) ** 3)) for side in (-0.45, 0.45))
    grey = 170 - 120 * lungs + 40 * np.exp(-(((x - 0.1) / 0.2) ** 2 + ((y - 0.3) / 0.3) ** 2)) + 6 * np.sin(25 * y) + rng.normal(0, 3, x.shape)
    return np.repeat(np.clip(grey, 0, 255).astype(np.uint8)[..., None], 3, axis=2)


def foreign(kind: str) -> NDArray[np.uint8]:
    rng = np.random.default_rng(0)
    if kind == "noise":
        return rng.integers(0, 256, (20, SIZE, SIZE, 3), dtype=np.uint8)
    if kind == "chest X-ray":
        return np.stack([chest(rng) for _ in range(20)])
    pictures = [Image.fromarray(picture) for picture in load_sample_images().images]
    corners = [(picture, int(rng.integers(0, 300)), int(rng.integers(0, 120))) for picture in pictures for _ in range(10)]
    return np.stack([np.array(p.crop((x, y, x + 300, y + 300)).resize((SIZE, SIZE))) for p, x, y in corners])


def x_rays() -> NDArray[np.uint8]:
    """A hundred real ones."""
    with np.load(XRAYS) as arrays:
        scans = [Image.fromarray(scan).resize((SIZE, SIZE), Image.Resampling.BICUBIC).convert("RGB") for scan in arrays["test_images"][:100]]
    return np.stack([np.array(scan) for scan in scans])


@pytest.mark.skipif(not XRAYS.exists(), reason="needs ../shared/data")
def test_real_chest_x_rays_are_refused(predictor: Predictor) -> None:
    assert share(predictor, x_rays()) > 0.9


@pytest.mark.skipif(not XRAYS.exists(), reason="needs ../shared/data")
def test_photographs_of_patients_are_refused_by_a_model_of_drawings(predictor: Predictor, capsys: pytest.CaptureFixture[str]) -> None:
    """The nearest foreign images that there are: dermoscopy to drawn dermoscopy. `pytest -s` shows the share."""
    found = share(predictor, np.stack([read(data, SIZE) for data in tiny_ham.photographs()["data"]]))
    with capsys.disabled():
        print(f"\nof photographs of skin a model of drawings refuses {found:.3f}")
    assert found > 0.9


@pytest.mark.skipif(not XRAYS.exists(), reason="needs ../shared/data")
def test_a_model_of_photographs_refuses_x_rays_drawings_of_them_and_temples_but_not_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    """Photographs of skin vary so much that a view without colour takes most chest X-rays in; `pytest -s` shows the shares."""
    found = tiny_ham.photographs()
    pixels, labels = np.stack([read(data, SIZE) for data in found["data"]]), np.unique(found["label"], return_inverse=True)[1]
    rank = np.array([np.arange(len(own)) for _, own in found.groupby("label")]).reshape(-1)  # rows stand class by class
    train, cal, new = rank < 20, (rank >= 20) & (rank < 50), rank >= 50
    network = backbone.build("test_resnet", len(CLASSES), REPOSITORY / "models/base/backbone")
    texture = backbone.texture(network, pixels)
    known = ood.learn(texture[train], pixels[train], labels[train], len(CLASSES))
    record = ood.fit(ood.distances(texture[cal], pixels[cal], known), pixels[cal], labels[cal], CLASSES)
    model = Predictor({"classes": list(CLASSES), "seeds": [1], "transform": {"size": SIZE}, "ood": record}, {"1": network}, {1: known})
    shares = {kind: share(model, foreign(kind)) for kind in ("noise", "chest X-ray", "photograph")} | {"real X-ray": share(model, x_rays())}
    own = share(model, pixels[new])
    scans, limits = x_rays(), ood.unnamed(record["limits"], CLASSES)
    alone = float((ood.excess(ood.distances(backbone.texture(network, scans), scans, known)[:1], limits[:1]) > 1).mean())
    with capsys.disabled():
        print(f"\nrefused by a model of {train.sum()} photographs of skin: {shares}; of {new.sum()} photographs new to it: {own:.3f}")
        print(f"of the real X-rays texture alone would refuse {alone:.2f}")
    assert alone < shares["real X-ray"]
    assert min(shares.values()) > 0.9 and own <= 0.08


@pytest.mark.skipif(not XRAYS.exists(), reason="needs ../shared/data")
def test_with_few_calibration_images_of_a_rare_class_foreign_ones_are_refused_too(capsys: pytest.CaptureFixture[str]) -> None:
    """Up to 800 lesions a class, half of them known, a tenth for the limits (7 of df): what one odd image of a small class could open.
    `pytest -s` shows the shares, the least of four divisions."""
    found = tiny_ham.photographs({"all": 800})
    pixels, labels = np.stack([read(data, SIZE) for data in found["data"]]), np.unique(found["label"], return_inverse=True)[1]
    network = backbone.build("test_resnet", len(CLASSES), REPOSITORY / "models/base/backbone")
    texture, kinds = (
        backbone.texture(network, pixels),
        {kind: foreign(kind) for kind in ("noise", "chest X-ray", "photograph")} | {"real X-ray": x_rays()},
    )
    least, own = dict.fromkeys(kinds, 1.0), np.zeros((4, len(CLASSES)))
    for k in range(len(own)):
        part = np.random.default_rng(k).random(len(pixels))
        train, cal, new = part < 0.5, (part >= 0.5) & (part < 0.6), part >= 0.6
        known = ood.learn(texture[train], pixels[train], labels[train], len(CLASSES))
        record = ood.fit(ood.distances(texture[cal], pixels[cal], known), pixels[cal], labels[cal], CLASSES)
        limits = ood.unnamed(record["limits"], CLASSES)
        for kind, images in kinds.items():
            beyond = ood.excess(ood.distances(backbone.texture(network, images), images, known), limits) > 1
            least[kind] = min(least[kind], float(beyond.mean()))
        beyond = ood.excess(ood.distances(texture[new], pixels[new], known), limits) > 1
        own[k] = [beyond[labels[new] == c].mean() for c in range(len(CLASSES))]
    with capsys.disabled():
        print(
            f"\nrefused, the least of {len(own)}: {least}; of new photographs, by class: {dict(zip(CLASSES, own.mean(0).round(3).tolist(), strict=True))}"
        )
    assert min(least.values()) > 0.9 and own.mean() <= ood.LEVEL and own.mean(0).max() <= 0.1


@pytest.mark.parametrize("kind", ["noise", "chest X-ray", "photograph"])
def test_a_foreign_image_is_refused(predictor: Predictor, kind: str) -> None:
    assert share(predictor, foreign(kind)) > 0.9


def test_an_image_of_its_kind_is_seldom_refused(predictor: Predictor) -> None:
    images, _ = drawings("fresh", 20)
    assert share(predictor, images) <= 0.08  # 140 images at 5%, and chance
    record = predictor.info["ood"]
    assert all(binom.sf(one["refused"] - 1, one["n"], ood.LEVEL) >= ood.LEVEL for one in record["cal"].values())


def test_dark_and_blurred_images_are_refused_by_name(predictor: Predictor) -> None:
    images, _ = drawings("fresh", 2)
    blurred = np.stack([np.array(Image.fromarray(i).filter(ImageFilter.GaussianBlur(4))) for i in images])
    assert all(why and "blurred" in why for why in predictor.refusals(blurred))
    assert all(why and "darker" in why for why in predictor.refusals(images // 8))


def test_a_picture_of_which_the_middle_square_shows_less_than_half_is_refused() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (100, 210, 3), dtype=np.uint8)
    with pytest.raises(Unusable, match="crop it"):
        read(encode_png(pixels), SIZE)
    assert read(encode_png(pixels[:, :200]), SIZE).shape == (SIZE, SIZE, 3)


def test_a_changed_record_of_known_images_is_refused(tmp_path: Path) -> None:
    write_model(tmp_path / "m")
    assert load(tmp_path / "m").refusals(np.zeros((2, SIZE, SIZE, 3), np.uint8)) == [None, None]  # trained before there was such a record
    add_known(tmp_path / "m", 3)
    path = tmp_path / "m" / ood.FILE
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(LawError, match="changed"):
        load(tmp_path / "m")


@given(st.integers(0, 60), st.integers(0, 2**32 - 1))
def test_no_class_is_refused_more_often_than_chance_explains(n: int, seed: int) -> None:
    """A rare class that lies farther out than the others in one view, and scatters more widely there."""
    rng = np.random.default_rng(seed)
    own, labels = rng.chisquare(5, (2, 80 + n)), np.repeat([0, 1], [80, n])
    own[0, labels == 1] = 9 * rng.lognormal(0, 2, n)
    found = ood.limits(own, labels, 2)
    beyond = np.any(own > found[:, labels], axis=0)
    for c in (0, 1):
        assert binom.sf(beyond[labels == c].sum() - 1, (labels == c).sum(), ood.LEVEL) >= ood.LEVEL or not beyond[labels == c].any()
    assert np.isinf(ood.limits(own[:, :18], labels[:18], 2)).all()  # too few of all: nothing is refused for its distance


@given(st.integers(14, 60), st.integers(0, 2**32 - 1))
def test_one_strange_image_opens_no_door(n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    own, labels = rng.chisquare(5, (2, 3 * n)), np.repeat([0, 1, 2], n)
    own[0, 0] = 1e6
    found = ood.limits(own, labels, 3)
    assert (found[:, 0] <= 20 * np.median(own, axis=1)).all()


@pytest.mark.parametrize("n", [10, 19, 39, 105])
def test_new_images_are_refused_as_often_as_the_level_promises_in_each_class(n: int) -> None:
    """Three classes of different scatter, two views, 200 cal sets, 200 new images each."""
    rng, scatter, labels = np.random.default_rng(n), np.array([1.0, 3.0, 0.5]), np.repeat([0, 1, 2], n)
    beyond = []
    for _ in range(200):
        found = ood.limits(rng.chisquare(5, (2, 3 * n)) * scatter[labels], labels, 3)
        beyond.append((rng.chisquare(5, (2, 3, 200)) * scatter[:, None] > found[..., None]).any(0).mean(1))
    shares = np.mean(beyond, axis=0)
    print(f"{np.round(shares, 3)} of new images refused, n = {n} a class")
    assert (shares < 1.1 * ood.LEVEL).all() and (shares > 0.5 * ood.LEVEL).all()


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_an_odd_image_of_a_class_of_four_opens_no_door(n: int) -> None:
    rng = np.random.default_rng(n)
    own, labels = rng.chisquare(5, (2, 300 + n)), np.repeat([0, 1], [300, n])
    own[0, -1] = 1e6
    found = ood.limits(own, labels, 2)
    assert (found[:, 1] <= 20 * np.median(own, axis=1)).all()


@pytest.mark.parametrize(("n", "most"), [(10, 0.11), (19, 0.085)])
def test_of_a_small_class_beside_a_large_one_somewhat_more_lie_beyond(n: int, most: float) -> None:
    """What the module says of it: nothing can be known of the tail of ten images."""
    rng, labels = np.random.default_rng(n), np.repeat([0, 1], [500, n])
    beyond = []
    for _ in range(200):
        found = ood.limits(rng.chisquare(5, (2, 500 + n)), labels, 2)
        beyond.append((rng.chisquare(5, (2, 200)) > found[:, 1:]).any(0).mean())
    print(f"{np.mean(beyond):.3f} of a class of {n} beside one of 500")
    assert ood.LEVEL < np.mean(beyond) < most


def test_a_class_without_training_images_accepts_nothing_and_refuses_nobody() -> None:
    rng = np.random.default_rng(1)
    features, labels = rng.normal(size=(60, 4)), np.repeat([0, 1], 30)
    images = rng.integers(0, 256, (60, 8, 8, 3), np.uint8)
    distance = ood.distances(features, images, ood.learn(features, images, labels, 3))
    assert np.isinf(distance[..., 2]).all() and np.isfinite(distance[..., :2]).all()
    least = np.full((len(ood.VIEWS), 3), 1e-9)
    far, unknown = least.copy(), least.copy()
    far[:, 0], unknown[:, 2] = 1e9, np.inf
    assert (ood.excess(distance, least) > 1).all() and not (ood.excess(distance, far) > 1).any() and not (ood.excess(distance, unknown) > 1).any()
    record = ood.fit(distance, images, labels, ["a", "b", "c"])
    assert record["cal"]["c"] == {"refused": 0, "n": 0} and record["limits"]["c"]["texture"] >= record["limits"]["a"]["texture"] / 10


def jpeg(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """An image, saved as JPEG and read back."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=75)
    return np.asarray(Image.open(file))


def test_colour_that_a_grey_data_set_lacks_is_foreign_and_the_trace_that_jpeg_leaves_is_not() -> None:
    rng = np.random.default_rng(2)
    texture, labels = rng.normal(size=(80, 4)), np.repeat([0, 1], 40)
    grey = np.repeat(rng.integers(0, 256, (80, 16, 16, 1), np.uint8) // 2 + rng.integers(0, 128, (80, 1, 1, 1), np.uint8), 3, axis=-1)
    known = ood.learn(texture, grey, labels, 2)
    distance = ood.distances(texture, grey, known)
    limits = ood.limits(distance[:, np.arange(80), labels], labels, 2)
    warm = np.clip(grey.astype(int) + [1, 0, 0], 0, 255).astype(np.uint8)  # a scanner's cast
    trace = np.stack([jpeg(image) for image in warm])
    tinted = (grey * [1.0, 0.7, 0.7]).astype(np.uint8)
    shares = [(ood.excess(ood.distances(texture, images, known), limits) > 1).mean() for images in (grey, trace, tinted)]
    assert shares[0] <= ood.LEVEL and shares[1] <= 2 * ood.LEVEL and shares[2] > 0.95


def test_what_is_known_of_images_survives_the_file() -> None:
    known = {seed: {"texture_mean": np.full((2, 3), seed, np.float32)} for seed in (1, 12)}
    again = ood.nested(ood.flat(known))
    assert list(again) == [1, 12] and all(np.array_equal(again[s]["texture_mean"], known[s]["texture_mean"]) for s in known)
