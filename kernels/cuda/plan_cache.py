"""The plans that were the fastest here: a file in the user's cache, so that a shape is timed once.

{GPU and cuDNN version: {problem: name of its plan}}, as JSON. Deleting it is always safe.

Read next: graph.py, which needs every plan chosen before it captures a step.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path


class PlanCache:
    """names: {problem: name of its plan} on a machine. A file that is damaged, or that can't be
    written, only costs time. Processes share it; each replaces the whole at once."""

    def __init__(self, machine: str):
        self.machine = machine
        self.names = self._read().get(machine, {})

    def add(self, problem: str, name: str) -> None:
        self.names[problem] = name
        every = self._read()  # another process may have written since
        every[self.machine] = every.get(self.machine, {}) | {problem: name}
        try:
            path = self._path()
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, part = tempfile.mkstemp(f".{os.getpid()}.part", f".{path.name}.", path.parent)
            try:
                with open(handle, "w", encoding="utf-8") as file:
                    json.dump(every, file, indent=1)
                os.replace(part, path)
            finally:
                Path(part).unlink(missing_ok=True)
        except (OSError, RuntimeError):  # the latter from a user without a home
            pass

    def _read(self) -> dict[str, dict[str, str]]:
        try:
            path = self._path()
            every = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
            return {
                machine: names
                for machine, names in every.items()
                if isinstance(names, dict) and all(isinstance(n, str) for n in names.values())
            }
        except (OSError, RuntimeError, ValueError, AttributeError):  # RecursionError included
            return {}

    def _path(self) -> Path:
        """plans.json in the folder of engine/data/download.py, which kernels/ can't import."""
        cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        return Path(cache) / "lsuv-engine" / "plans.json"
