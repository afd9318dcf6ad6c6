"""Triton kernels for CUDA devices, installed as ``bumpnet_fast.kernels``; nothing here is needed on a CPU."""
