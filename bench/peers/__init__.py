"""What ours is compared with: PyTorch's nets and operations, and other makers of matrices.

Read next: bench/peers/torch_nets.py.
"""

import importlib.util
import subprocess
import sys


def torch_missing(device: str) -> str | None:
    """Why PyTorch can't take part beside this device of ours; None where it can.

    Whether it sees a GPU is asked in a process of its own: it may bring another cuDNN than ours."""
    if importlib.util.find_spec("torch") is None:
        return "torch is not installed"
    if device != "cuda":
        return None
    done = subprocess.run(
        [sys.executable, "-c", "import torch; print(torch.cuda.is_available())"],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        return f"torch does not load: {(done.stderr.splitlines() or ['no word'])[-1]}"
    return None if "True" in done.stdout else "torch sees no GPU; its build for the CPU?"
