"""Of CUDA.

Read next: libs/__init__.py.
"""
