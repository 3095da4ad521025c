"""A double of NVIDIA's namespace of packages.

Read next: pathfinder.py.
"""
