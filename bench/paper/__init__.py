"""The paper's tables and figures, measured: `python -m bench.paper table8`.

Read next: bench/paper/__main__.py.
"""
