"""One launch of a CUDA kernel, seen thread by thread, on a machine without a GPU.

Read next: __main__.py.
"""
