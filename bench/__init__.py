"""Benches: each checks what it times, prints a table, and writes JSON with machine and versions.

Read next: bench/step.py; bench/paper/__init__.py for the paper, bench/gpu/__init__.py for a GPU,
bench/torch_lsuv/__init__.py for PyTorch's models.
"""
