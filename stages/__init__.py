"""The stages of rarelens. The environment is fixed here, before any stage imports torch or numpy.

Kernels differ between AVX2 and AVX-512, in torch, oneDNN, MKL, OpenBLAS and numpy, and so do the last bits of their
results. All are held to AVX2, which every x86-64 machine of the last decade has (`make bench` reports the cost). Two runs on one type
of machine give the same bytes; an Intel and an AMD processor do not from the first trained network on (reports/experiments.md).
"""

import os

if os.environ.get("RARELENS_NATIVE_CPU") != "1":
    os.environ.update(
        {
            "ATEN_CPU_CAPABILITY": "avx2",
            "ONEDNN_MAX_CPU_ISA": "AVX2",
            "MKL_CBWR": "AVX2",
            "MKL_ENABLE_INSTRUCTIONS": "AVX2",
            "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR",
            "OPENBLAS_CORETYPE": "Haswell",
        }
    )
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")  # Arrow's own keeps what was freed: 50 MB while a table of images is written
