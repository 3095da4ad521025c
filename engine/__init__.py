"""lsuv-engine from Python:

    import engine
    model = engine.load("runs/fitnet4-lsuv-20250101-120000")   # or with device="numpy"
    probabilities = model.predict(images)                      # uint8 (N, H, W, C) -> (N, classes)

and `fit`, `batches`, `scores`, `save`, `restore`, `to_onnx` for a net and arrays of one's own.
Nothing heavy is imported before it is used.

Read next: engine/train.py, the command that everything else serves.
"""

import sys
from importlib.util import find_spec
from pathlib import Path

__all__ = ["batches", "fit", "load", "restore", "save", "scores", "to_onnx"]


def load(run, device: str = "auto", threads: int | None = None):
    """The net of a run folder, finished or running, with its newest checkpoint's weights.

    -> engine.predict.Predictor. InputError if the folder holds no run or no whole checkpoint;
    kernels.DeviceError if the device can't be used here."""
    from engine.predict import restored

    return restored(run, device, threads)[0]


LATER = {
    **dict.fromkeys(("batches", "fit", "scores"), "engine.fitting"),
    **dict.fromkeys(("save", "restore"), "engine.run.weights"),
    "to_onnx": "engine.export",
    "restored": "engine.predict",
}


def _check_lsuv() -> None:
    """PyPI has another package of the name lsuv: found before ours, or installed over it, it is the
    one that Python imports. One line, from a command without a traceback."""
    spec = find_spec("lsuv")
    if spec and spec.origin and "lsuv.algorithm" not in Path(spec.origin).read_text():
        text = (
            f"{Path(spec.origin).parent} is another package called lsuv, not lsuv-engine's; "
            "pip uninstall lsuv, then install lsuv-engine again"
        )
        main = getattr(sys.modules["__main__"], "__spec__", None)  # of what -m has started
        ours = main is not None and main.name.split(".")[0] in ("engine", "bench", "lsuv")
        if ours or sys.argv[:1] == ["-m"]:  # which is still looking for it
            print(f"error: {text}", file=sys.stderr)
            raise SystemExit(2)
        raise ImportError(text)


_check_lsuv()


def __getattr__(name: str):
    if name in LATER:
        from importlib import import_module

        return getattr(import_module(LATER[name]), name)
    raise AttributeError(f"module 'engine' has no attribute {name!r}")
