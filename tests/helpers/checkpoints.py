"""A small net's checkpoint for the tests, and its file taken apart and put together again.

Read next: tests/run/test_checkpoint.py.
"""

import json

import numpy as np

from engine.run import checkpoint

SETTINGS = {"seed": 1, "net": "small", "act": "relu", "loss": "softmax", "optimizer": "sgd"}
DATA = {"name": "synthetic", "fingerprint": "ab" * 32}
MEAN = {"data.mean_image": np.zeros((5, 6, 2), np.float32)}


def save(folder, net, optimizer, step: int, data=DATA, settings=SETTINGS):
    return checkpoint.save(
        folder,
        net,
        optimizer,
        step=step,
        epoch=step / 2,
        settings=settings,
        data=data,
        data_tensors=MEAN,
        progress={"rows": step},
    )


def parts(path):
    """A checkpoint's header and its tensors' bytes."""
    whole = path.read_bytes()
    length = int.from_bytes(whole[:8], "little")
    return json.loads(whole[8 : 8 + length]), whole[8 + length :]


def put(path, text: str, body: bytes) -> None:
    data = text.encode()
    path.write_bytes(len(data).to_bytes(8, "little") + data + body)
