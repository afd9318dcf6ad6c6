"""BumpNet (arXiv:2512.17198) as a kernel-accelerated PyTorch extension."""

__version__ = "0.1.0"
