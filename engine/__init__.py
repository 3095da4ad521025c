"""lsuv-engine from Python:

    import engine
    model = engine.load("runs/fitnet4-lsuv-20250101-120000")   # or with device="numpy"
    probabilities = model.predict(images)                      # uint8 (N, H, W, C) -> (N, classes)

and `fit`, `batches`, `scores`, `save`, `restore`, `to_onnx` for a net and arrays of one's own.
Nothing heavy is imported before it is used.

Read next: engine/train.py, the command that everything else serves.
"""

__all__ = ["batches", "fit", "load", "restore", "save", "scores", "to_onnx"]
BATCH = 1024  # images that `load` makes room for at most


def load(run, device: str = "auto", threads: int | None = None):
    """The net of a run folder, finished or running, with its newest checkpoint's weights.

    -> engine.predict.Predictor. InputError if the folder holds no run or no whole checkpoint;
    kernels.DeviceError if the device can't be used here."""
    return restored(run, device, threads)[0]


def restored(run, device: str, threads: int | None = None, report=print, **other):
    """The same, and what it was made from -> (Predictor, its run's record, Saved, Settings).

    other: `precision` and `batch`, where they are not to be the run's."""
    from dataclasses import replace

    from engine.cli.settings import Settings
    from engine.data.preprocessing import Preprocessing
    from engine.errors import InputError
    from engine.losses import loss_of
    from engine.net import Net
    from engine.predict import Predictor
    from engine.run import checkpoint
    from engine.run.files import need
    from engine.run.folder import DESCRIPTION, read_run
    from engine.train import KNOWN
    from kernels import ops_for
    from models import NETS, build

    record = read_run(run)
    saved = checkpoint.read(run, report, best=True)
    checkpoint.refuse_others(saved, record["settings"], record["data"])
    settings = replace(Settings.from_dict(saved.settings, saved.path, KNOWN), **other)
    data = need(saved.data, DESCRIPTION | Preprocessing.SAVED, saved.path)
    shape = NETS[settings.net].in_shape
    if tuple(data["in_shape"]) != shape or not all(
        isinstance(name, str) for name in data["classes"]
    ):
        raise InputError(
            f"{saved.path}: its data are not {settings.net}'s; put the run's own file back"
        )
    layers = build(settings.net, settings.act, len(data["classes"]), settings.dropout)
    ops = ops_for(device, threads, settings.precision, allow_fp32=True)
    settings = settings.on(ops)
    net = Net(
        layers,
        loss_of(settings),
        ops,
        shape,
        min(settings.batch, BATCH),
        settings.seed,
        precision=settings.precision,
    )
    checkpoint.restore(saved, net)
    preprocessing = Preprocessing.restored(
        data, saved.tensors, shape, settings.input_scale, saved.path
    )
    model = Predictor(net, data, preprocessing)
    return model, record, saved, settings


LATER = {
    **dict.fromkeys(("batches", "fit", "scores"), "engine.fitting"),
    **dict.fromkeys(("save", "restore"), "engine.run.weights"),
    "to_onnx": "engine.export",
}


def __getattr__(name: str):
    if name in LATER:
        from importlib import import_module

        return getattr(import_module(LATER[name]), name)
    raise AttributeError(f"module 'engine' has no attribute {name!r}")
