"""The libraries whose versions are written down with what was computed."""

COMPUTING = (
    "torch",
    "transformers",
    "trl",
    "peft",
    "accelerate",
    "datasets",
    "numpy",
    "pillow",
    "tokenizers",
    # By which rewards and tests take an answer for right: what is parsed, and what is equal.
    "math-verify",
    "latex2sympy2_extended",
    "sympy",
)
"""They change what is computed, or how what was computed so far is kept."""

OTHERS = (
    "matplotlib",  # its fonts are in the drawn images
    "pandas",
    "pyarrow",
    "safetensors",
    "scikit-learn",
    "scipy",
)
"""They read, write and draw."""
