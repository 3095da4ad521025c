"""What only a GPU has, and `python -m bench.gpu`.

Read next: bench/gpu/__main__.py.
"""
