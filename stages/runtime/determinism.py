"""The same bytes on every run: a fixed number of threads, fixed seeds, deterministic kernels (`stages/__init__.py` fixes the CPU's)."""

from __future__ import annotations

import hashlib
import random

import numpy as np


def fix(threads: int, seed: int = 0) -> None:
    """Fix the thread count and every global seed; torch raises where an operation has no deterministic form."""
    import torch  # here: not every stage that draws by `seed_of` needs torch, which takes seconds to load

    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def seed_of(*key: object) -> int:
    """A 63-bit seed that hangs on `key` alone: the same image or step gets it in any batch, order or process."""
    return int.from_bytes(hashlib.sha256("\0".join(map(str, key)).encode()).digest()[:8], "little") >> 1
