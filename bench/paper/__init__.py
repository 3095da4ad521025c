"""The paper's tables and figures, measured: `python -m bench.paper table8`."""
