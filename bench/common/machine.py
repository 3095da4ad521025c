"""What a number was measured on: processor, threads, versions, date.

Read next: bench/runs.py.
"""

import datetime
import json
import os
import pathlib
import platform
from contextlib import suppress

from engine.errors import InputError
from engine.run.folder import versions

RESULTS = pathlib.Path(__file__).resolve().parents[1] / "results"


def processor() -> str:
    """This machine's, by name."""
    with suppress(OSError, StopIteration):
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    return platform.processor() or platform.machine()


def machine(ops, peers: dict[str, str]) -> dict[str, str]:
    """Facts that belong beside a measurement on the device `ops`.

    peers: {package: version} of the other software that took part."""
    software = {name: version for name, version in versions().items() if version != "not installed"}
    python, system = software.pop("python"), software.pop("system")
    return {
        "processor": processor(),
        "cores": str(os.cpu_count()),
        "device": ops.name,
        "description": ops.description,
        "python": python,
        "system": system,
        "versions": ", ".join(f"{name} {version}" for name, version in (software | peers).items()),
        "date": datetime.date.today().isoformat(),
    }


def write(
    path: str | pathlib.Path | None,
    ops,
    rows: list[dict],
    peers: dict[str, str] | None = None,
    **more,
) -> None:
    """{"machine": ..., "rows": [...]} as JSON; nothing without a path."""
    if path is not None:
        path = pathlib.Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"machine": machine(ops, peers or {}), **more, "rows": rows}, indent=1)
        path.write_text(text + "\n")


def refuse_emulated(device: str | None) -> None:
    """InputError for the device whose times say nothing."""
    if device == "emulated":
        raise InputError(
            "--device emulated: it has no speed of a GPU to measure; python -m bench.trace shows "
            "what its kernels do, or give --device cpu or cuda"
        )
