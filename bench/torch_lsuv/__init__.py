"""LSUV for PyTorch's models, measured: `lsuv.torch` and the package lsuv on 16 architectures.

Read next: bench/torch_lsuv/__main__.py.
"""
