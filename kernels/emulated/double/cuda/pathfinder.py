"""A double of cuda-pathfinder, which loads NVIDIA's libraries: nothing is to be loaded here.

Read next: tests/cuda/README.md.
"""


def load_nvidia_dynamic_lib(name: str) -> None:
    if name not in ("cudart", "cublasLt", "nvrtc", "cusolver"):
        raise RuntimeError(f"no library {name}")
