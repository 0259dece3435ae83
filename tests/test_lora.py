"""LoRA training: what it saves opens in diffusers and does what was trained; it resumes to the same bytes; law 1 holds."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from string import Formatter

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from stages import lora_study, lora_train
from stages.dataset.card import read_card
from stages.dataset.groups import group_hash, read_seen, write_seen
from stages.diffusion import adapter, finetuning
from stages.diffusion.base import load_base, open_pipeline
from stages.diffusion.pretraining import denoising_loss
from stages.diffusion.prompts import render_prompts
from stages.runtime.errors import LawError, UserError
from stages.runtime.files import read_json
from stages.runtime.params import LoraTrain
from tests.tiny_disease import REPOSITORY, build, change_params, files, stage


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The world with a trained adapter in lora/; not to be changed."""
    root = build(tmp_path_factory.mktemp("world"))
    with pytest.MonkeyPatch.context() as patch:
        stage(root, patch, lora_train.main, "base", "lora")
    return root


@pytest.fixture
def copy(world: Path, tmp_path: Path) -> Path:
    """A copy of the world that a test may change."""
    return Path(shutil.copytree(world, tmp_path / "copy"))


def predict(pipe: object, prompt: str) -> torch.Tensor:
    """The UNet's output on fixed noise."""
    config = pipe.unet.config  # type: ignore[attr-defined]
    noise = torch.randn((1, config.in_channels, config.sample_size, config.sample_size), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        return pipe.unet(noise, torch.tensor(400), adapter.context(pipe, [prompt])).sample  # type: ignore[attr-defined]


def test_the_folder_holds_what_it_should_and_the_state_is_gone(world: Path) -> None:
    names = {"pytorch_lora_weights.safetensors", "learned_embeds.safetensors", "lora.json", "curve.png", "groups_seen.txt"}
    assert set(files(world / "lora")) == names
    assert not list((world / ".cache/lora").iterdir())
    split_groups = {group_hash(g) for g in ("lesion0", "lesion1", "lesion2")}
    assert read_seen(world / "lora") == split_groups


def test_diffusers_opens_token_and_lora_and_they_change_the_output(world: Path) -> None:
    pipe = open_pipeline(world / "pipeline")
    pipe.load_textual_inversion(world / "lora/learned_embeds.safetensors")
    assert pipe.tokenizer.convert_ids_to_tokens(pipe.tokenizer(pipe.maybe_convert_prompt("a <df>", pipe.tokenizer)).input_ids)[2:4] == [
        "<df>",
        "<df>_1",
    ]
    before = predict(pipe, "a <df>")
    pipe.load_lora_weights(world / "lora")
    assert (predict(pipe, "a <df>") - before).abs().max() > 1e-4


def test_the_saved_adapter_does_what_the_trained_one_did(world: Path, tmp_path: Path) -> None:
    # alpha is twice the rank here: a loader that does not know it would draw at half the strength.
    pipe, _ = load_base(world / "base")
    pipe.load_textual_inversion(world / "lora/learned_embeds.safetensors")
    params = adapter.add_lora(pipe.unet, 4, 8.0, ["to_q", "conv1"], seed=0)
    with torch.no_grad():
        for k, parameter in enumerate(params):
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(k)))
    trained = predict(pipe, "a <df>")
    adapter.save_adapter(tmp_path, pipe.unet, 2.0, "<df>", torch.ones(2, 4))
    again, _ = load_base(world / "base")
    again.load_textual_inversion(world / "lora/learned_embeds.safetensors")
    again.load_lora_weights(tmp_path)
    torch.testing.assert_close(predict(again, "a <df>"), trained)
    again.unload_lora_weights()
    adapter.load_lora(again, tmp_path / adapter.LORA)
    torch.testing.assert_close(predict(again, "a <df>"), trained)
    adapter.fuse(again)
    assert not [n for n, _ in again.unet.named_parameters() if "lora" in n]
    torch.testing.assert_close(predict(again, "a <df>"), trained, rtol=1e-3, atol=1e-4)


def test_the_kept_checkpoint_has_the_least_held_out_loss(world: Path) -> None:
    info = read_json(world / "lora/lora.json")
    assert [c["step"] for c in info["curve"]] == [0, 2, 4]
    assert all(math.isfinite(c[k]) for c in info["curve"] for k in ("held_out", "train"))
    assert all(c["gap"] == c["held_out"] - c["train"] for c in info["curve"])
    assert info["selected_step"] == min(info["curve"][1:], key=lambda c: c["held_out"])["step"]
    assert (info["images"], info["groups"], info["probed"]) == (6, 3, {"train": 2, "val": 1})


def test_only_the_tokens_own_vectors_are_learned(world: Path) -> None:
    pipe, _ = load_base(world / "base")
    before = {k: v.clone() for k, v in pipe.text_encoder.state_dict().items()}
    kind = read_card(world / "data/phantom.yaml").classes["df"]
    start = adapter.initial_rows(pipe, kind, 2, seed=0)
    ids = adapter.add_token(pipe, "<df>", start)
    data = finetuning.Material(torch.randn(8, 2, 6, 16, 16), [["a <df>"], ["a <df> on the back"]])
    p = LoraTrain(**{**read_json(world / "lora/lora.json")["params"], "token_steps": 3})
    rows = finetuning.learn_token(pipe, ids, data, p, world.parent / "unused/token.safetensors")
    assert (rows - start).abs().max() > 1e-3
    for name, value in pipe.text_encoder.state_dict().items():
        torch.testing.assert_close(value[: len(before[name])], before[name], rtol=0, atol=0, msg=name)


@pytest.mark.parametrize("calls", [1, 9])  # in the token's second step; in the LoRA's last one, after its first checkpoint
def test_an_interrupted_run_goes_on_to_the_same_bytes(calls: int, copy: Path, world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    count = 0

    def fails(*args: object) -> torch.Tensor:
        nonlocal count
        count += 1
        if count > calls:
            raise KeyboardInterrupt
        return denoising_loss(*args)  # type: ignore[arg-type]

    shutil.rmtree(copy / "lora")
    with monkeypatch.context() as patch:
        patch.setattr("stages.diffusion.finetuning.denoising_loss", fails)
        with pytest.raises(KeyboardInterrupt):
            stage(copy, patch, lora_train.main, "base", "lora")
    kept = list((copy / ".cache/lora").rglob("*.safetensors"))
    assert len(kept) == (2 if calls > 1 else 0)
    stage(copy, monkeypatch, lora_train.main, "base", "lora")
    assert files(copy / "lora") == files(world / "lora")


def test_a_base_that_saw_a_test_lesion_is_refused(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_seen(copy / "base", [group_hash("lesion7")])
    with pytest.raises(LawError, match="lesion7"):
        stage(copy, monkeypatch, lora_train.main, "base", "lora")


def test_targets_that_name_no_layer_are_refused_by_name(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    change_params(copy, "lora_train", targets=["to_q", "to_nowhere"])
    with pytest.raises(UserError, match="to_nowhere"):
        stage(copy, monkeypatch, lora_train.main, "base", "lora")


def test_a_lora_for_another_unet_is_refused(world: Path, tmp_path: Path) -> None:
    pipe, _ = load_base(world / "base")
    state = load_file(world / "lora" / adapter.LORA)
    name = next(k for k in state if "to_q" in k)
    save_file({k.replace("mid_block", "middle_block"): v for k, v in state.items()}, tmp_path / "renamed.safetensors")
    with pytest.raises(LawError, match="does not fit the base"):
        adapter.load_lora(pipe, tmp_path / "renamed.safetensors")
    pipe, _ = load_base(world / "base")
    save_file(state | {name: torch.zeros(4, 7)}, tmp_path / "shape.safetensors")
    with pytest.raises(LawError, match="does not fit the base"):
        adapter.load_lora(pipe, tmp_path / "shape.safetensors")


def test_prompts_say_what_is_known_and_leave_out_what_is_not(world: Path) -> None:
    templates = read_card(world / "data/phantom.yaml").prompts["df"]
    known = {"age": 50.0, "sex": "female", "site": "back", "skin_tone": "dark"}
    full = render_prompts(templates, known, "<df>")
    assert full[0] == "a dermoscopic image of <df> on the back of a 50 year old female on dark skin"
    assert len(full) == 7
    for missing in (None, np.nan, "", "unknown"):
        rest = render_prompts(templates, known | {"site": missing}, "dermatofibroma")
        assert rest == [f"a dermoscopic image of dermatofibroma{end}" for end in (" of a 50 year old female on dark skin", " on dark skin", "")]
    with pytest.raises(UserError, match="needs an attribute"):
        render_prompts(["{title} at {age}"], {}, "<df>")


@pytest.mark.parametrize("name", ["phantom", "ham10000"])
def test_most_prompts_of_a_card_with_attributes_name_several(name: str) -> None:
    card = read_card(REPOSITORY / f"data/{name}.yaml")
    for templates in card.prompts.values():
        named = [{field for _, field, _, _ in Formatter().parse(t) if field} - {"title"} for t in templates]
        assert set.union(*named) == set(card.attributes)
        assert sum(len(fields) > 1 for fields in named) > len(named) / 2
        assert set() in named, "an image of which nothing is known has a prompt too"


def test_a_prompt_with_an_attribute_that_does_not_exist_is_refused(world: Path, tmp_path: Path) -> None:
    card = tmp_path / "card.yaml"
    card.write_text((world / "data/phantom.yaml").read_text().replace("on the {site} of", "on the {sight} of"))
    with pytest.raises(UserError, match="sight"):
        read_card(card)


def test_a_token_starts_from_the_words_that_are_known(world: Path) -> None:
    pipe, _ = load_base(world / "base")
    table = pipe.text_encoder.get_input_embeddings().weight
    ids = {word: pipe.tokenizer(word, add_special_tokens=False).input_ids for word in ("skin", "lesion")}
    general = read_card(world / "data/phantom.yaml").classes
    for name, words in (("vasc", ["lesion"]), ("df", ["skin", "lesion"])):  # "vascular", "dermatofibroma" and "histiocytoma" are spelled
        rows = adapter.initial_rows(pipe, general[name], 500, seed=0)
        torch.testing.assert_close(rows.mean(0), table[[ids[w][0] for w in words]].mean(0), rtol=0, atol=0.02 * float(table.std()))


def test_a_study_trains_every_setting_and_tells_its_losses_by_step(
    copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--rank", "2", "4", "--targets", "attention", "--steps", "4"]
    stage(copy, monkeypatch, lora_study.main, "base", "study", *arguments)
    table = pd.read_csv(copy / "study/df.csv")
    assert list(table) == ["rank", "targets", "step", "held_out", "train", "gap"]
    assert list(zip(table["rank"], table["step"], strict=True)) == [(2, 0), (2, 2), (2, 4), (4, 0), (4, 2), (4, 4)]
    assert table.loc[table["step"] == 0, "held_out"].nunique() == 1, "the same base with the same token"
    assert len(table.loc[table["step"] == 4, ["held_out", "train"]].drop_duplicates()) == 2
    assert (copy / "study/df.png").exists()
    shown = capsys.readouterr().out.splitlines()
    assert len(shown) == 4 and f"{table.loc[table['step'] > 0, 'held_out'].min():.4f}" in shown[2]
