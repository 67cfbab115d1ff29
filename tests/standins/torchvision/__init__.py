"""Stands for torchvision where none matches torch: the names that transformers imports, and no function that works.

For tests that start what needs torchvision and does not use it: with Pillow's image processors none of this is called.
"""

from torchvision import io, transforms

__version__ = "0.29.1"
__all__ = ["io", "transforms"]
