"""Triton, torch and numba kernels: one folder per operation, each a pure function on tensors."""
