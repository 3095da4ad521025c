"""The folder that stands on Python's path where device emulated is used: packages named as CuPy,
cuDNN's frontend and cuda-pathfinder, with the names that kernels/cuda/ uses of them.

Read next: cupy/__init__.py, cudnn/__init__.py, cupy_backends/__init__.py and cuda/pathfinder.py.
"""
