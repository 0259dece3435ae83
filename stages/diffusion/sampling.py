"""Draw images: each by its own random numbers, whatever batch, order or process it is drawn in."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from stages.dataset.table import decode
from stages.diffusion.base import side
from stages.runtime.parallel import Tick, each

#: Images at a time, by device. Kernels sum in another order when the batch's shape changes (not when its other rows do),
#: so every call has this shape: the last one is filled up.
CHUNK = {"cpu": 8, "cuda": 16}
CHUNKS = 4  # chunks that a forked process draws at most: few forks, and still none that the others wait for
TEXT, IMAGE, INTERCLASS = "text2img", "img2img", "interclass"


@dataclass(frozen=True)
class Request:
    """One image to draw. `source` is the id of the image it starts from and `strength` how far it leaves it (None: from text)."""

    slot: int
    attempt: int
    mode: str
    prompt: str
    source: str | None
    strength: float | None
    seed: int


class Sampler:
    """DPM-Solver++ (Lu et al. 2022, arXiv:2211.01095) on `pipe` with `steps` steps and classifier-free `guidance`.

    `sources` are encoded images by id, of any side: what the requests that do not come from text start from.
    """

    def __init__(self, pipe: Any, sources: Mapping[str, bytes], steps: int, guidance: float) -> None:
        from diffusers import DPMSolverMultistepScheduler, StableDiffusionImg2ImgPipeline

        scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config, algorithm_type="dpmsolver++", solver_order=2)
        pipe.scheduler = scheduler
        self._text = pipe
        self._image = StableDiffusionImg2ImgPipeline(**pipe.components, requires_safety_checker=False)
        self._image.set_progress_bar_config(disable=True)
        self.sources, self.steps, self.guidance = sources, steps, guidance
        self.chunk, self.side = CHUNK[pipe.unet.device.type], side(pipe)

    def _call(self, requests: Sequence[Request]) -> NDArray[np.float32]:
        """Images of at most `chunk` requests that share mode and strength."""
        full = [*requests, *[requests[-1]] * (self.chunk - len(requests))]
        common = {
            "prompt": [r.prompt for r in full],
            "generator": [torch.Generator().manual_seed(r.seed) for r in full],
            "guidance_scale": self.guidance,
            "num_inference_steps": self.steps,
            "output_type": "np",
        }
        if requests[0].mode == TEXT:
            images = self._text(**common).images
        else:
            pixels = decode([self.sources[str(r.source)] for r in full], self.side)
            start = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
            images = self._image(image=start, strength=requests[0].strength, **common).images
        return np.asarray(images[: len(requests)], np.float32)

    def _chunks(self, requests: Sequence[Request]) -> list[list[int]]:
        """The places of `requests` in at most `chunk` at a time that share mode and strength."""
        kinds = [(r.mode, r.strength or 0.0) for r in requests]
        own = [[i for i, other in enumerate(kinds) if other == kind] for kind in sorted(set(kinds))]
        return [of_kind[k : k + self.chunk] for of_kind in own for k in range(0, len(of_kind), self.chunk)]

    def __call__(self, requests: Sequence[Request], tick: Tick = lambda _: None) -> NDArray[np.float32]:
        """The images (N, S, S, 3) of `requests`, 0 to 1 (NaN where the model gave that); `tick` hears of every image drawn."""
        out: dict[int, NDArray[np.float32]] = {}
        for part in self._chunks(requests):
            out |= dict(zip(part, self._call([requests[i] for i in part]), strict=True))
            tick(len(part))
        return np.stack([out[i] for i in range(len(requests))])

    def forked(self, requests: Sequence[Request], threads: int, what: str) -> NDArray[np.float32]:
        """As a call, drawn by `threads` processes of one thread each (on a GPU by this one), under a bar that says `what`."""
        parts = self._chunks(requests)
        most = min(CHUNKS, math.ceil(len(parts) / max(threads, 1)))  # the last rounds of a pool draw few: all processes have a part of them
        jobs = [[i for part in parts[k : k + most] for i in part] for k in range(0, len(parts), most)]
        drawn = each(lambda job, tick: self([requests[i] for i in job], tick), jobs, threads, what, "image", len(requests))
        out = {i: image for job, images in zip(jobs, drawn, strict=True) for i, image in zip(job, images, strict=True)}
        return np.stack([out[i] for i in range(len(requests))])


def share(draw: Callable[[Sequence[Request]], NDArray[np.float32]], requests: Sequence[Request], state: Any) -> NDArray[np.float32]:
    """`draw(requests)` with the work split over the processes of an Accelerate `state`; every process gets all images."""
    from accelerate.utils import gather_object

    world, rank = state.num_processes, state.process_index
    mine = list(requests[rank::world])
    parts = gather_object([draw(mine) if mine else None])
    out: list[NDArray[np.float32]] = [parts[i % world][i // world] for i in range(len(requests))]
    return np.stack(out)
