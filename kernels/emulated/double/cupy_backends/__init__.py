"""A double of what CuPy is built on: cuSOLVER alone.

Read next: cuda/__init__.py.
"""
