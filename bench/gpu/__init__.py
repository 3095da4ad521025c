"""What only a GPU has, and `python -m bench.gpu`."""
