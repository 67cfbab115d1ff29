"""The libraries whose versions are written down with what was computed."""

COMPUTING = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "numpy", "pillow", "tokenizers")
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
