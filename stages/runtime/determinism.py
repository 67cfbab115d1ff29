"""What must be fixed before torch is imported so that the same inputs give the same bytes.

One thread and one instruction set, whatever the processor offers: sums are then taken in one order. On x86-64 from AVX2
on, MKL's COMPATIBLE branch is the one that gives the same bits on Intel and AMD, but for square roots, which are taken
elsewhere (`square_roots.py`). That this is so, operator by operator, is held by tests/test_operators.py.
"""

import os
import sys

ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "MKL_CBWR": "COMPATIBLE",
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    "TOKENIZERS_PARALLELISM": "false",
}


def pin() -> None:
    """Set the environment above, then torch's own switches. Call it first in an entrypoint that computes.

    Raises:
        RuntimeError: torch was imported before without this environment, when it is too late.
    """
    if "torch" in sys.modules and not os.environ.items() >= ENVIRONMENT.items():
        raise RuntimeError("stages.runtime.determinism.pin() must run before torch is imported")
    os.environ.update(ENVIRONMENT)
    import torch

    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    # Or every new tensor is first filled with NaN, a third of a reinforcement step.
    torch.utils.deterministic.fill_uninitialized_memory = False
    from stages.runtime.square_roots import use_right_roots

    use_right_roots()
    if torch.backends.mkldnn.is_available():
        from stages.runtime.matrix_products import use_onednn

        use_onednn()
