"""params.yaml, typed: one block per stage. The whole file is checked each time any part of it is read.

An unknown key, a missing key or a value of the wrong type (`1e-4` is a string to YAML) is refused by its name.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PositiveFloat, PositiveInt, ValidationError, model_validator

from stages.runtime.checked import explain, read_yaml
from stages.runtime.errors import UserError
from stages.runtime.tries import complaint

Share = Annotated[float, Field(ge=0, le=1)]
Strength = Annotated[float, Field(gt=0, le=1)]
Natural = Annotated[int, Field(ge=0)]
#: An unquoted `off` is false to YAML.
Selection = Annotated[Literal["off", "random", "easy", "hard"], BeforeValidator(lambda value: "off" if value is False else value)]
LOGIT_ADJUST = "logit_adjust"  # a control that is no training of its own
DatasetName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")]


class Block(BaseModel):
    """A block of params.yaml: no unknown keys, no silent conversions, no defaults."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class PretrainAutoencoder(Block):
    """Training of the autoencoder: `images` in its class-free corpus."""

    widths: list[PositiveInt]
    images: PositiveInt
    steps: PositiveInt
    batch: PositiveInt
    lr: PositiveFloat


class PretrainRound(Block):
    """A round of training on `images` new drawings of `classes` in turn (one named twice is drawn twice as often), through `part` of a cosine of `lr`."""

    images: PositiveInt
    classes: Annotated[list[str], Field(min_length=1)]
    steps: PositiveInt
    batch: PositiveInt
    lr: PositiveFloat
    part: Annotated[tuple[Share, Share], Field(strict=False)]  # YAML knows no tuples


class PretrainDenoiser(Block):
    """Training of UNet and text encoder on captioned drawings of the common classes."""

    widths: list[PositiveInt]
    rounds: list[PretrainRound]


class PretrainBackbone(Block):
    """Training of the timm backbone on `rounds` times `images` drawings."""

    name: str
    rounds: PositiveInt
    images: PositiveInt
    steps: PositiveInt
    batch: PositiveInt
    lr: PositiveFloat


class Pretrain(Block):
    """How models/base is made (frozen)."""

    size: PositiveInt
    seed: Natural
    autoencoder: PretrainAutoencoder
    denoiser: PretrainDenoiser
    backbone: PretrainBackbone


class RareCommon(Block):
    """Images per class, for the rare and for the other classes."""

    rare: Natural
    common: Natural


class Phantom(Block):
    """The procedural data set: images per class and split; `train` by class, 1 to 3 images a lesion there."""

    name: str
    version: PositiveInt
    seed: Natural
    size: PositiveInt
    train: dict[str, PositiveInt]
    val: PositiveInt
    cal: PositiveInt
    test: PositiveInt
    reserve: RareCommon
    oracle: RareCommon


class Refine(Block):
    """Reading files, crop, resize and the search for duplicates. `hash_distance` in bits of 64, `correlation` of pixels.

    `frames` says which of a file's frames become images; a file is given up after `file_seconds` (wall clock) for a frame
    or when more than `file_memory_mb` MiB are needed to open it.
    """

    size: PositiveInt
    frames: Literal["first", "middle", "all"]
    file_seconds: PositiveFloat
    file_memory_mb: Annotated[int, Field(ge=200)]
    hash_distance: Natural
    correlation: Share
    max_cluster_share: Share


class Split(Block):
    """Shares of the groups per part (`train` takes the rest); `base` counts images of common classes.

    `max_images` caps what enters at all, per class (null: all); a capped class keeps whole groups, drawn by `seed`.
    Of the surplus over `max_train_per_rare_class`, half goes to `oracle` and half to `reserve`. `folds` are train's, for the judge; `fold`
    (0 on; null: no folds) makes test the one of `test_folds` equal parts, which `python -m stages.folds` goes through.
    """

    seed: Natural
    val: Share
    cal: Share
    test: Share
    base: Natural
    folds: Annotated[int, Field(ge=2)]
    max_images: dict[str, PositiveInt]
    max_train_per_rare_class: PositiveInt | None
    fold: Natural | None

    @property
    def test_folds(self) -> int:
        """How many folds of test there are: the whole number nearest to what its share goes into the whole."""
        return round(1 / self.test) if self.test else 1

    @model_validator(mode="after")
    def _fold_exists(self) -> Split:
        if self.fold is not None and not self.fold < self.test_folds:
            raise ValueError(f"fold is {self.fold}, and with test: {self.test} there are {self.test_folds}, 0 to {self.test_folds - 1}")
        return self


class DataReport(Block):
    """The data report: `sheet` example images a class on its contact sheet, `permutations` of labels in the shortcut audit and for
    confounders (p is at least 1 / (1 + permutations), so 100 are needed for p under 0.01), `review` labels listed for a person."""

    sheet: PositiveInt
    permutations: Annotated[int, Field(ge=100)]
    review: PositiveInt
    seed: Natural


class Base(Block):
    """The base model: `source` is a folder or a hub id, `revision` pins a hub id. `train` continues it on split `base`."""

    source: str
    revision: str | None
    backbone: str | None
    train: bool
    seed: Natural
    autoencoder_steps: PositiveInt
    denoiser_steps: PositiveInt
    backbone_steps: PositiveInt
    batch: PositiveInt
    lr: PositiveFloat
    backbone_lr: PositiveFloat


class Augment(Block):
    """Augmentation of every classifier: rotation in degrees, zoom and colour as relative ranges."""

    flips: bool
    rotation: Annotated[float, Field(ge=0, le=180)]
    zoom: Share
    colour: Share


class Judge(Block):
    """The k-fold judge that filters synthetic images; `accept` is the least probability of the wanted class
    (1 / classes is chance; a judge that has seen 20 images of a disease gives unseen real ones about 0.3)."""

    backbone: str
    steps: PositiveInt
    batch: PositiveInt
    lr: PositiveFloat
    weight_decay: Annotated[float, Field(ge=0)]
    class_weighting: Share
    accept: Share


class LoraTrain(Block):
    """Textual inversion for `token_steps`, then LoRA for `steps`; the held-out denoising loss picks the checkpoint."""

    rank: PositiveInt
    alpha: PositiveFloat
    targets: list[str]
    tokens: PositiveInt
    token_steps: Natural
    token_lr: PositiveFloat
    steps: PositiveInt
    batch: PositiveInt
    lr: PositiveFloat
    min_snr_gamma: PositiveFloat
    ema: Share
    prompt_drop: Share
    checkpoints: PositiveInt
    held_out: PositiveInt
    seed: Natural


class Modes(Block):
    """Shares of the pool's slots: from text, from the disease's own training images, from training images of common classes."""

    text2img: Share
    img2img: Share
    interclass: Share

    @model_validator(mode="after")
    def _whole(self) -> Modes:
        if abs(self.text2img + self.img2img + self.interclass - 1) > 1e-6:
            raise ValueError("text2img, img2img and interclass are shares of the pool and must sum to 1")
        return self


class Strengths(Block):
    """How far an image leaves the one it starts from (0 to 1: from text alone); a mode's slots take them in turn."""

    img2img: list[Strength] = Field(min_length=1)
    interclass: list[Strength] = Field(min_length=1)


class Generate(Block):
    """The pool per disease: `pool` accepted images, drawn in `modes` at `strengths`.

    `interclass_from` names the common classes that mode interclass starts from; it is read where that mode has a share. (It is not
    derived from `rare`: another rare disease would then redraw every disease's images.)
    """

    pool: PositiveInt
    max_attempts: PositiveInt
    modes: Modes
    strengths: Strengths
    interclass_from: list[str]
    guidance: PositiveFloat
    steps: PositiveInt
    seed: Natural
    min_distance: Share

    @model_validator(mode="after")
    def _steps_suffice(self) -> Generate:
        if int(self.steps * min(*self.strengths.img2img, *self.strengths.interclass)) < 1:
            raise ValueError("steps times the least of strengths is under 1: raise generate.steps or that strength")
        return self


class Mix(Block):
    """How many synthetic (or duplicated, or fresh real) images each rare class gets, per seed, and which synthetic ones.

    `select`: "random" of the accepted ones, "easy" (the judge is surest) or "hard" (least sure) ones of them, or "off", without the filter.
    """

    per_class: PositiveInt
    select: Selection


class Train(Block):
    """What every regime has in common. The learning rate was chosen on `real` and val. `logit_taus` are those tried where a tau is "val".

    `frozen_stages` is how many of the backbone's first stages keep their starting weights (the stem is the first; 0: all are trained).
    """

    backbone: str
    pretrained: bool
    seeds: list[PositiveInt] = Field(min_length=1)
    steps: PositiveInt
    batch: PositiveInt
    lr: PositiveFloat
    weight_decay: Annotated[float, Field(ge=0)]
    loss: Literal["cross_entropy", "focal"]
    focal_gamma: Annotated[float, Field(ge=0)]
    frozen_stages: Natural
    checkpoints: PositiveInt
    logit_taus: list[Annotated[float, Field(ge=0)]] = Field(min_length=1)
    augment: Augment


class Regime(Block):
    """What sets one regime apart: class weights in the loss (inverse frequency to the power given; 0 is none), RandAugment, and logit
    adjustment on top (`logit_tau` times the log of the class shares it was trained on; 0 is none; "val": each seed's best on val).

    One that is not `enabled` is left out of training and verdict, and both say so.
    """

    enabled: bool
    class_weighting: Share
    randaugment: bool
    logit_tau: Annotated[float, Field(ge=0)] | Literal["val"]


class RealRegime(Regime):
    """`aa_seeds` are trained beside `train.seeds` for real against real (A/A). Its prior stays: shifted, it is the control logit_adjust."""

    logit_tau: Annotated[float, Field(ge=0, le=0)]
    aa_seeds: list[PositiveInt]


class SyntheticRegime(Regime):
    """A regime that may be the candidate: `real_weight` is the loss weight of a real image, a synthetic one's is 1; `repeats` of each rare
    class's real images stand beside the synthetic ones, as the control `duplicate` has them."""

    real_weight: PositiveFloat
    repeats: Natural


class Curriculum(SyntheticRegime):
    """`first` is the share of the steps on synthetic rare images; the rest is on real ones alone."""

    first: Annotated[float, Field(gt=0, lt=1)]


class Evaluate(Block):
    """`candidate` is the one regime that the verdict is on; `regime` names what metrics.json shows.

    `logit_tau` is that of the control logit_adjust, on what `real` learned. `external` names other refined data sets that are tested beside
    the internal one.
    """

    candidate: str
    regime: str
    bootstrap: PositiveInt
    min_seeds: PositiveInt
    logit_tau: PositiveFloat | Literal["val"]
    seed: Natural
    external: list[DatasetName]


class Audit(Block):
    """The audit of the generator: `per_class` images a class in its accuracy, those of common classes drawn by the base in `steps` steps with
    `guidance`, and named by a scorer trained for `scorer_steps`; `noise_levels` per image in the membership test; `sheet` images on the
    blinded sheet. It stops when the lower bound of the copies beyond the null's share exceeds `max_copy_rate`."""

    per_class: PositiveInt
    steps: PositiveInt
    guidance: PositiveFloat
    scorer_steps: PositiveInt
    noise_levels: PositiveInt
    max_copy_rate: Share
    sheet: PositiveInt
    seed: Natural


class Study(Block):
    """Tries on val (`python -m stages.study`): by regime a list of changes to these parameters, as many for one regime as for another.

    A try may change `mix` and the regime's own block, the control logit_adjust `evaluate.logit_tau`; what all regimes share it may not.
    It is laid over `start` of its regime, which names every knob that a try turns: so tries mean the same when the defaults have moved.
    Every try but those of logit_adjust is scored at each of `train.logit_taus`, which no training depends on, and told at its best.
    """

    seeds: list[PositiveInt] = Field(min_length=1)
    start: dict[str, dict[str, dict[str, Any]]]
    tries: dict[str, list[dict[str, Any]]] = Field(min_length=1)

    @model_validator(mode="after")
    def _equal_care(self) -> Study:
        if wrong := complaint(self.start, self.tries, LOGIT_ADJUST):
            raise ValueError(wrong)
        return self


class Params(Block):
    """The whole of params.yaml."""

    dataset: DatasetName
    rare: list[str]
    threads: PositiveInt
    phantom: Phantom
    refine: Refine
    split: Split
    data_report: DataReport
    base: Base
    judge: Judge
    lora_train: LoraTrain
    generate: Generate
    mix: Mix
    train: Train
    train_real: RealRegime
    train_synth: Regime
    train_combined: SyntheticRegime
    train_curriculum: Curriculum
    train_oracle: Regime
    train_weighted: Regime
    train_duplicate: Regime
    train_randaugment: Regime
    audit: Audit
    evaluate: Evaluate
    study: Study
    pretrain: Pretrain

    @model_validator(mode="after")
    def _agree(self) -> Params:
        if self.split.val + self.split.cal + self.split.test >= 1:
            raise ValueError("split.val + split.cal + split.test must stay under 1, or nothing is left to train on")
        if len(set(self.rare)) != len(self.rare):
            raise ValueError("rare names a class twice")
        if self.generate.modes.interclass:
            if not self.generate.interclass_from:
                raise ValueError("generate.modes.interclass has a share of the pool: name common classes in generate.interclass_from")
            if both := sorted(set(self.generate.interclass_from) & set(self.rare)):
                raise ValueError(f"generate.interclass_from names {', '.join(both)}, which is rare: only common classes may stand there")
        if len(set(self.evaluate.external) | {self.dataset}) != len(self.evaluate.external) + 1:
            raise ValueError("evaluate.external names a data set twice, or the internal one, which is no external test of itself")
        seeds = self.train.seeds + self.train_real.aa_seeds
        if len(set(seeds)) != len(seeds):
            raise ValueError("train.seeds and train_real.aa_seeds share a seed; real against real needs different ones")
        unknown = sorted(set(self.study.tries) - {*REGIMES, LOGIT_ADJUST})
        if unknown:
            raise ValueError(f"study.tries names {unknown[0]}, which is no regime")
        left_out = [name for name in ("real", self.evaluate.candidate) if name in REGIMES and not self.regime(name).enabled]
        if left_out:
            raise ValueError(f"train_{left_out[0]}.enabled is false, and there is no verdict without {left_out[0]}")
        return self

    def regime(self, name: str) -> Regime:
        """The block `train_<name>`; `UserError` for an unknown regime."""
        if name not in REGIMES:
            raise UserError(f"unknown regime {name!r}; one of {', '.join(REGIMES)}")
        block: Regime = getattr(self, f"train_{name}")
        return block


REGIMES = tuple(f.removeprefix("train_") for f in Params.model_fields if f.startswith("train_"))


def read_params(path: str | Path = "params.yaml", rare_needed: bool = True) -> Params:
    """The checked params file; `UserError` names every wrong key. Stages that only look at data need no class in `rare`: images
    without labels have none."""
    try:
        params = Params.model_validate(read_yaml(path))
    except ValidationError as error:
        raise explain(error, path) from None
    if rare_needed and not params.rare:
        raise UserError(f"{path}: rare is empty, enough for refine, split and data_report alone; name the diseases to learn, e.g. rare: [df]")
    return params
