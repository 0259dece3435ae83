"""Generation: an image is its own seed's, wrong ones are drawn again, what is kept is marked, and the laws stop the rest."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import accelerate.utils
import numpy as np
import pytest
import torch
import yaml
from datasets import load_dataset
from hypothesis import given, settings as settings_of_hypothesis, strategies as st
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from stages import generate, lora_train
from stages.dataset.groups import group_hash, write_seen
from stages.dataset.table import decode, read_table
from stages.diffusion import adapter, sampling
from stages.diffusion.base import open_pipeline
from stages.diffusion.planning import places, planner
from stages.diffusion.sampling import IMAGE, INTERCLASS, TEXT, Request, Sampler, share
from stages.diffusion.selection import BROKEN, DUPLICATE, EMPTY, JUDGE, MEMORISED, STRANGE, fill, in_grey
from stages.imaging.refining import encode_png
from stages.imaging.watermark import SOURCE_TYPE, is_marked
from stages.runtime.errors import LawError, UserError
from stages.runtime.files import read_json, sha256, write_json
from stages.runtime.params import Generate, read_params
from tests.tiny_disease import REPOSITORY, SIZE, FakeJudge, build, change_params, files, stage


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The world with an adapter in lora/ and images in synthetic/; not to be changed."""
    root = build(tmp_path_factory.mktemp("world"))
    with pytest.MonkeyPatch.context() as patch:
        stage(root, patch, lora_train.main, "base", "lora")
        patch.setattr(generate, "load_judge", lambda *_: FakeJudge())
        stage(root, patch, generate.main, "base", "lora", "judge", "synthetic")
    return root


@pytest.fixture
def copy(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the world that a test may change, with a judge that says yes."""
    monkeypatch.setattr(generate, "load_judge", lambda *_: FakeJudge())
    return Path(shutil.copytree(world, tmp_path / "copy"))


def run(root: Path, monkeypatch: pytest.MonkeyPatch, out: str = "synthetic") -> None:
    """Call the stage in `root`."""
    stage(root, monkeypatch, generate.main, "base", "lora", "judge", out)


# --- what it writes


def test_every_attempt_is_a_row(world: Path) -> None:
    table = read_table(world / "synthetic")
    assert table["accepted"].sum() == 6
    assert table["id"].is_unique
    assert not set(table["id"]) & {f"img{i}" for i in range(9)}
    assert list(table["mode"]) == [TEXT] * 3 + [IMAGE] * 3
    assert table["source"].isna().tolist() == [True] * 3 + [False] * 3
    assert set(table["source"].dropna()) <= {f"img{i}" for i in range(6)}  # training images only
    assert table["prompt"].str.startswith("a dermoscopic image of <df>").all()
    assert (table["p_df"] == 0.9).all()
    info = read_json(world / "lora/lora.json")
    assert set(table["adapter_hash"]) == {info["adapter_hash"]} and set(table["base_hash"]) == {info["base_hash"]}
    assert decode(table["image"]).shape == (6, SIZE, SIZE, 3)
    assert read_json(world / "synthetic/summary.json")["modes"]["img2img"]["accepted"] == 3


def test_hugging_face_datasets_opens_it(world: Path, tmp_path: Path) -> None:
    rows = load_dataset("parquet", data_files=str(world / "synthetic/*.parquet"), cache_dir=str(tmp_path))["train"]
    assert rows[0]["image"].size == (SIZE, SIZE)


def test_accepted_images_say_that_ai_made_them_in_plain_text(world: Path) -> None:
    for image in read_table(world / "synthetic")["image"]:
        assert is_marked(image)
        assert SOURCE_TYPE.encode() in image  # not compressed: any tool finds it


def test_two_processes_draw_what_one_draws(copy: Path, world: Path) -> None:
    script = copy / "two.py"
    script.write_text(
        "import sys\n"
        "from stages import generate\n"
        "from tests.tiny_disease import FakeJudge\n"
        "generate.load_judge = lambda *_: FakeJudge()\n"
        "sys.argv = 'generate df data/phantom.yaml data/refined data/split.csv base lora judge synthetic'.split()\n"
        "generate.main()\n"
    )
    shutil.rmtree(copy / "synthetic")
    launch = ["torch.distributed.run", "--standalone", "--no-python", "--nproc-per-node", "2"]  # what $LAUNCH is documented as
    command = [sys.executable, "-m", *launch, sys.executable, str(script)]
    done = subprocess.run(command, cwd=copy, env=os.environ | {"PYTHONPATH": str(REPOSITORY)}, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "3/3" in done.stderr  # each drew its half
    assert files(copy / "synthetic") == files(world / "synthetic")


def test_the_bytes_do_not_hang_on_the_number_of_threads(copy: Path, world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params = yaml.safe_load((copy / "params.yaml").read_text())
    (copy / "params.yaml").write_text(yaml.safe_dump(params | {"threads": 3}))
    monkeypatch.setattr(sampling, "CHUNKS", 1)  # a fork for each mode and strength
    run(copy, monkeypatch)
    assert files(copy / "synthetic") == files(world / "synthetic")


def test_an_image_from_another_class_is_judged_by_the_fold_that_never_saw_its_lesion(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judge = FakeJudge()
    monkeypatch.setattr(generate, "load_judge", lambda *_: judge)
    change_params(copy, "generate", pool=3, modes={"text2img": 0.0, "img2img": 0.0, "interclass": 1.0}, interclass_from=["nv"])
    run(copy, monkeypatch)
    table = read_table(copy / "synthetic")
    assert set(table["mode"]) == {INTERCLASS} and set(table["source"]) == {"img8"} and set(table["strength"]) == {0.8}
    assert set(table["label"]) == {"df"} and table["prompt"].str.contains("<df>").all()
    assert judge.folds == [8 % 3] * 3
    assert read_json(copy / "synthetic/summary.json")["modes"] == {INTERCLASS: {"attempts": 3, "accepted": 3, "rate": 1.0}}
    assert not any(np.array_equal(image, decode(read_table(copy / "data/refined")["image"])[8]) for image in decode(table["image"]))


def test_a_common_class_without_training_images_is_named(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    change_params(copy, "generate", modes={"text2img": 0.5, "img2img": 0.0, "interclass": 0.5}, interclass_from=["nv", "mel"])
    with pytest.raises(UserError, match="interclass_from names mel"):
        run(copy, monkeypatch)


def test_another_seed_gives_other_images(copy: Path, world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    change_params(copy, "generate", seed=1)
    run(copy, monkeypatch)
    assert not set(read_table(copy / "synthetic")["image"]) & set(read_table(world / "synthetic")["image"])


def test_a_shortfall_stops_with_its_accept_rate(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generate, "load_judge", lambda *_: FakeJudge(p=0.3))
    with pytest.raises(UserError, match=r"0 of 12 attempts accepted \(0%; reasons: {'judge': 12}\): look at"):
        run(copy, monkeypatch)
    table = read_table(copy / "synthetic")  # what was drawn can be looked at
    assert list(table["attempt"]) == [0, 1] * 6
    assert table["image"].is_unique
    assert (copy / "synthetic/rejected.png").exists()


def test_an_image_from_a_lesion_is_judged_by_the_fold_that_never_saw_it(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judge = FakeJudge()
    monkeypatch.setattr(generate, "load_judge", lambda *_: judge)
    run(copy, monkeypatch)
    fold = {f"img{i}": i // 2 for i in range(6)}
    assert judge.folds == [fold.get(source, -1) for source in read_table(copy / "synthetic")["source"]]
    assert judge.folds.count(-1) == 3


# --- laws


def tampered(root: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]], name: str = adapter.LORA) -> None:
    """Change a weight file of the adapter and record its new hash, as a careless script would."""
    path = root / "lora" / name
    save_file(change(load_file(path)), path)
    info = read_json(root / "lora/lora.json")
    write_json(root / "lora/lora.json", info | {"sha256": info["sha256"] | {name: sha256(path)}})


def test_an_adapter_with_no_effect_is_refused(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tampered(copy, lambda state: {k: v * 0 for k, v in state.items()})
    with pytest.raises(LawError, match="adapter with no effect"):
        run(copy, monkeypatch)


def test_an_empty_token_is_refused(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tampered(copy, lambda state: {k: v * 0 for k, v in state.items()}, adapter.TOKEN)
    with pytest.raises(LawError, match="the token <df> is empty"):
        run(copy, monkeypatch)


def test_an_adapter_with_a_weight_missing_is_refused(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tampered(copy, lambda state: {k: v for k, v in state.items() if k != sorted(state)[0]})
    with pytest.raises(LawError, match="does not fit the base"):
        run(copy, monkeypatch)


def test_a_tampered_adapter_is_refused(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = copy / "lora" / adapter.LORA
    save_file({k: v + 1 for k, v in load_file(path).items()}, path)
    with pytest.raises(LawError, match=r"is not the file that lora\.json recorded"):
        run(copy, monkeypatch)


def test_an_adapter_of_another_base_is_refused(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_json(copy / "lora/lora.json", read_json(copy / "lora/lora.json") | {"base_hash": "0" * 64})
    with pytest.raises(LawError, match="another base"):
        run(copy, monkeypatch)


@pytest.mark.parametrize(("folder", "group"), [("base", "lesion6"), ("lora", "lesion7")])  # a val and a test lesion
def test_a_model_that_saw_a_sealed_lesion_is_refused(folder: str, group: str, copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_seen(copy / folder, [group_hash(group)])
    with pytest.raises(LawError, match=f"{folder} has seen 1 group.*{group}"):
        run(copy, monkeypatch)


# --- drawing


def requests(count: int, mode: str = TEXT) -> list[Request]:
    """Requests with seeds of their own."""
    return [Request(i, 0, mode, "a lesion", "s" if mode == IMAGE else None, 0.7 if mode == IMAGE else None, 100 + i) for i in range(count)]


@pytest.fixture(scope="module")
def sampler(world: Path) -> Sampler:
    """Two steps of the tiny base."""
    source = encode_png(np.full((SIZE, SIZE, 3), 128, np.uint8))
    return Sampler(open_pipeline(world / "pipeline"), {"s": source}, steps=2, guidance=2.0)


@pytest.mark.parametrize("mode", [TEXT, IMAGE])
def test_an_image_does_not_depend_on_its_company(mode: str, sampler: Sampler) -> None:
    together = sampler(requests(10, mode))
    alone = sampler([requests(10, mode)[9]])
    np.testing.assert_array_equal(alone[0], together[9])
    mixed = sampler([*requests(2, TEXT), *requests(10, mode)[::-1]])
    np.testing.assert_array_equal(mixed[2:][::-1], together)
    assert not np.array_equal(together[0], together[1])


def test_processes_share_the_drawing_by_index(monkeypatch: pytest.MonkeyPatch) -> None:
    def draw(some: Sequence[Request]) -> NDArray[np.float32]:
        return np.array([[r.seed] for r in some], np.float32)

    wanted = requests(5)
    parts = [draw(wanted[rank::3]) for rank in range(3)]
    monkeypatch.setattr(accelerate.utils, "gather_object", lambda own: parts if np.array_equal(own[0], parts[1]) else None)
    np.testing.assert_array_equal(share(draw, wanted, SimpleNamespace(num_processes=3, process_index=1)), draw(wanted))


# --- the plan


def settings(**values: Any) -> Generate:
    """generate's default parameters, with changes."""
    return Generate.model_validate(read_params(REPOSITORY / "params.yaml").generate.model_dump() | values)


def plan_of(p: Generate) -> Callable[[int, int], Request]:
    """The plan for four images of df on dark skin, and common ones on light skin: 30 of nv, two of bcc."""
    own = [{"id": f"df{i}", "group": f"d{i}", "skin_tone": "dark"} for i in range(4)]
    common = {c: [{"id": f"{c}{i}", "group": f"{c}{i // 2}", "skin_tone": "light"} for i in range(n)] for c, n in (("nv", 30), ("bcc", 2))}
    return planner("df", ["{title} on {skin_tone} skin"], "<df>", own, common, p, ("b", "a"))


def test_modes_share_the_slots_and_strengths_and_sources_come_equally_often() -> None:
    p = settings(pool=32, modes={"text2img": 0.25, "img2img": 0.5, "interclass": 0.25}, strengths={"img2img": [0.5, 0.7], "interclass": [0.8]})
    assert [m for m, _ in places(p)] == [TEXT] * 8 + [IMAGE] * 16 + [INTERCLASS] * 8
    drawn = [plan_of(p)(slot, 0) for slot in range(32)]
    pairs = Counter((r.source, r.strength) for r in drawn if r.mode == IMAGE)
    assert pairs == {(f"df{i}", s): 2 for i in range(4) for s in (0.5, 0.7)}
    assert {r.prompt for r in drawn if r.mode != INTERCLASS} == {"<df> on dark skin"}
    assert len({r.seed for r in drawn}) == 32


def test_interclass_takes_the_other_classs_skin_from_every_class_and_another_lesion_at_every_attempt() -> None:
    plan = plan_of(settings(pool=200, modes={"text2img": 0.0, "img2img": 0.0, "interclass": 1.0}))
    drawn = [[plan(slot, attempt) for attempt in range(3)] for slot in range(200)]
    assert {r.prompt for each in drawn for r in each} == {"<df> on light skin"}
    assert all(each[0].source != each[1].source != each[2].source != each[0].source for each in drawn if not str(each[0].source).startswith("bcc"))
    first = [str(each[0].source) for each in drawn]
    assert 70 < sum(s.startswith("bcc") for s in first) < 130, "a class comes as often as another, however few its images"
    assert len({s for s in first if s.startswith("nv")}) > 25


@settings_of_hypothesis(max_examples=25, deadline=None)
@given(st.integers(1, 60), st.integers(0, 10), st.integers(0, 10), st.integers(1, 10))
def test_every_slot_has_one_mode_and_shares_are_kept_to_one_slot(pool: int, text: int, image: int, other: int) -> None:
    whole = text + image + other
    modes = {"text2img": text / whole, "img2img": image / whole, "interclass": other / whole}
    found = Counter(mode for mode, _ in places(settings(pool=pool, modes=modes)))
    assert sum(found.values()) == pool
    assert all(abs(found[mode] - pool * share) <= 1 for mode, share in modes.items())


# --- selection


def picture(seed: int) -> NDArray[np.float32]:
    """Noise, coarse enough to be seen in a thumb."""
    return np.random.default_rng(seed).random((4, 4, 3)).repeat(8, 0).repeat(8, 1).astype(np.float32)


def choose(images: dict[tuple[int, int], NDArray[np.float32]], pool: int = 2, max_attempts: int = 3, train: int = 900) -> list[tuple[int, int, str]]:
    """(slot, attempt, reason) of every attempt when `images` are drawn; the judge wants red under 0.9 on average, and real images have blue under that."""
    done = fill(
        lambda slot, attempt: Request(slot, attempt, TEXT, "", None, None, 10 * slot + attempt),
        lambda some: np.stack([images.get((r.slot, r.attempt), picture(r.seed)) for r in some]),
        lambda pixels, _: (
            np.array([[0.2, 0.8] if p[..., 0].mean() < 230 else [0.8, 0.2] for p in pixels]),
            np.array([p[..., 2].mean() / 230 for p in pixels]),
        ),
        pool=pool, max_attempts=max_attempts, wanted=1, accept=0.5,
        train=np.round(picture(train)[None] * 255).astype(np.uint8), min_distance=0.05,
    )  # fmt: skip
    return [(a.request.slot, a.request.attempt, a.reason) for a in done]


@pytest.mark.parametrize("grey", [True, False])
def test_what_is_drawn_for_scans_has_no_colour(grey: bool) -> None:
    train = np.round(picture(900)[None] * 255).astype(np.uint8)
    (attempt,) = fill(
        lambda slot, attempt: Request(slot, attempt, TEXT, "", None, None, 1), lambda some: np.stack([picture(r.seed) for r in some]),
        lambda pixels, _: (np.ones((len(pixels), 1)), np.zeros(len(pixels))),
        pool=1, max_attempts=1, wanted=0, accept=0.5, train=in_grey(train[0])[None] if grey else train, min_distance=0.0,
    )  # fmt: skip
    assert attempt.pixels is not None and (np.ptp(attempt.pixels, axis=-1).max() == 0) == grey


def test_good_images_are_taken_at_once() -> None:
    assert choose({}) == [(0, 0, ""), (1, 0, "")]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (np.full((32, 32, 3), np.nan, np.float32), BROKEN),
        (np.zeros((32, 32, 3), np.float32), EMPTY),
        (picture(900), MEMORISED),
        (np.rot90(picture(900)).copy(), MEMORISED),
        (picture(900)[:, ::-1] + np.float32(0.02), MEMORISED),
        (np.maximum(picture(5), np.array([1, 0, 0], np.float32)), JUDGE),
        (np.maximum(picture(5), np.array([0, 0, 1], np.float32)), STRANGE),
    ],
    ids=["nan", "black", "copy", "turned copy", "mirrored brighter copy", "wrong class", "unlike real images"],
)
def test_a_bad_image_is_refused_and_its_slot_drawn_again(bad: NDArray[np.float32], reason: str) -> None:
    assert choose({(0, 0): bad, (0, 1): bad}) == [(0, 0, reason), (0, 1, reason), (0, 2, ""), (1, 0, "")]


def test_the_second_of_two_alike_is_a_duplicate() -> None:
    assert choose({(1, 0): picture(0)}) == [(0, 0, ""), (1, 0, DUPLICATE), (1, 1, "")]


def test_a_slot_that_never_succeeds_stays_empty() -> None:
    black = np.zeros((32, 32, 3), np.float32)
    assert choose({(0, k): black for k in range(9)}) == [(0, 0, EMPTY), (0, 1, EMPTY), (0, 2, EMPTY), (1, 0, "")]


def test_drawing_ends_when_a_large_round_is_refused_whole() -> None:
    black = np.zeros((32, 32, 3), np.float32)
    assert len(choose({(slot, k): black for slot in range(100) for k in range(3)}, pool=100)) == 100
    assert len(choose({(slot, k): black for slot in range(99) for k in range(3)}, pool=99)) == 3 * 99
