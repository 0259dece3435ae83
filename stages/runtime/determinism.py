"""The same bytes on every run: fixed threads and a fixed CPU capability, set before torch or numpy is imported.

Kernels differ between AVX2 and AVX-512, in torch, oneDNN, MKL, OpenBLAS and numpy; all are held to AVX2, which
every x86-64 machine of the last decade has (`make bench` reports what that costs). Importing this module sets the
environment; `fix(threads, seed)` then sets threads and seeds.
"""

from __future__ import annotations

import os
import random

ENVIRONMENT = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_CBWR": "AVX2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR",
    "OPENBLAS_CORETYPE": "Haswell",
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}
if os.environ.get("RARELENS_NATIVE_CPU") != "1":  # `make bench` measures what the fixed capability costs
    os.environ.update(ENVIRONMENT)


def fix(threads: int, seed: int = 0) -> None:
    """Fix the thread count and every global seed; torch raises where an operation has no deterministic form."""
    import numpy as np
    import torch

    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
