"""The same bytes on every run: a fixed number of threads, fixed seeds, deterministic kernels (`stages/__init__.py` fixes the CPU's)."""

from __future__ import annotations

import random

import numpy as np
import torch


def fix(threads: int, seed: int = 0) -> None:
    """Fix the thread count and every global seed; torch raises where an operation has no deterministic form."""
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
