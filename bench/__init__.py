"""Benches: each checks what it times, prints a table, and writes JSON with machine and versions.

Read next: bench/step.py.
"""
