"""The house's floors: which room may import which, read from the source by `ast`.

Inside `engine` modules stand on floors too, and one imports only what is on its own floor or below;
no two import each other, however far around. Only the commands put together what they like.

Read next: tests/test_reading.py.
"""

import ast
import functools
import pathlib
import sys
from graphlib import CycleError, TopologicalSorter

import pytest

from helpers.programs import ROOT, TESTS

COMMANDS = {
    "engine/train.py",
    "engine/data/prepare.py",
    "engine/evaluate.py",
    "engine/export.py",
    "engine/plot/__main__.py",
    "engine/predict.py",
    "engine/__init__.py",
    "engine/__main__.py",
    "lsuv/__main__.py",
    "lsuv/torch/command.py",
}
# The same on every device.
SAME = {"kernels.philox", "kernels.clock", "kernels.errors", "kernels.checks"}
MAY = {
    "kernels": {"numpy", "ml_dtypes", "kernels"},
    "kernels/cuda": {"cupy", "cupy_backends", "cudnn"},  # besides
    "kernels/emulated/double": {"cupy", "cupy_backends", "cudnn"},  # likewise
    "engine": {"numpy", "safetensors", "pooch", "PIL", "rich", "filelock", "engine"} | SAME,
    "engine/data/pictures": {"simplejpeg"},  # likewise
    "engine/run/logs": {"tensorboardX"},  # likewise
    "engine/run/ranks": {"mpi4py"},  # likewise
    "engine/run/queue": {"submitit"},  # likewise
    "engine/plot": {"matplotlib", "lsuv.picture"},
    "lsuv": {"numpy", "engine", "lsuv"} | SAME,
    "lsuv/picture": {"matplotlib"},
    "lsuv/torch": {"torch", "kernels"},  # besides; no net hands it its operations
    "models": {"engine", "models"},
}
# From the ground up. What is not named stands with the subject: a net, and how it learns.
FLOORS = [
    {"engine.errors"},
    {"engine.run.files", "engine.run.tensorfile"},
    {"the subject", "engine.data", "models", "lsuv"},
    {"engine.cli"},
    {"engine.run"},
    {"engine.plot"},
]


@functools.cache
def modules() -> dict[str, pathlib.Path]:
    """The product's modules by their names."""
    by_name = {}
    for room in ("engine", "kernels", "lsuv", "models"):
        for path in sorted((ROOT / room).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            by_name[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return by_name


def imports(path: pathlib.Path):
    """The modules that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield name if name in modules() else node.module


def is_command(name: str) -> bool:
    return str(modules()[name].relative_to(ROOT)) in COMMANDS


def floor(name: str) -> int:
    """Of a module by the longest of its names that FLOORS has."""
    while name:
        for number, names in enumerate(FLOORS):
            if name in names:
                return number
        name = name.rpartition(".")[0]
    return floor("the subject")


def test_the_commands_that_may_import_everything_exist():
    assert all((ROOT / path).is_file() for path in COMMANDS - {"engine/__main__.py"})


def test_rooms_import_only_what_their_floor_allows():
    checked = 0
    for name, path in modules().items():
        room = name.split(".")[0]
        allowed = set(MAY[room])
        for special in (
            "kernels/cuda",
            "kernels/emulated/double",
            "engine/data/pictures",
            "engine/run/logs",
            "engine/run/ranks",
            "engine/run/queue",
            "engine/plot",
            "lsuv/picture",
            "lsuv/torch",
        ):
            allowed |= MAY[special] if name.startswith(special.replace("/", ".")) else set()
        if is_command(name):
            continue
        for other in imports(path):
            top = other.split(".")[0]
            fine = top in sys.stdlib_module_names or top in allowed or other in allowed
            assert fine, f"{path.relative_to(ROOT)} imports {other}"
            checked += 1
    assert checked > 50


@pytest.mark.parametrize("room", ["engine", "lsuv", "models"])
def test_no_import_runs_upwards(room):
    for name, path in modules().items():
        if name.split(".")[0] == room and not is_command(name):
            for other in set(imports(path)) & modules().keys():
                if other.split(".")[0] != "kernels":
                    assert floor(other) <= floor(name) and not is_command(other), (
                        f"{path.relative_to(ROOT)} imports {other}, which stands above it"
                    )


def test_no_modules_import_each_other():
    graph = {
        name: set(imports(path)) & modules().keys() - {name} for name, path in modules().items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" <- ".join(error.args[1]))


def test_engine_shows_what_a_net_is_and_how_it_learns():
    """In sixteen files; what keeps runs safe, talks to the user or reads files has a folder."""
    shown = {path.name for path in (ROOT / "engine").glob("*.py")} - {"__main__.py"}
    assert len(shown) <= 16
    assert {path.parent.name for path in (ROOT / "engine").glob("*/*.py")} == {
        "cli",
        "data",
        "plot",
        "run",
    }


def test_nothing_imports_bench_or_tests():
    for path in modules().values():
        tops = {name.split(".")[0] for name in imports(path)}
        assert not tops & {"bench", "tests", "helpers"}, path


def test_no_test_module_imports_another():
    """What several need stands in tests/helpers."""
    tests = {path.stem for path in TESTS.rglob("test_*.py")}
    for path in TESTS.rglob("*.py"):
        names = {part for name in imports(path) for part in name.split(".")}
        assert not names & (tests | {"conftest"}), path


def test_nothing_in_a_folder_of_tests_hides_a_module():
    """A folder of tests has a room's name, and must not be taken for it: it is no package."""
    for folder in {path.parent for path in TESTS.glob("*/*.py")} - {TESTS / "helpers"}:
        assert not (folder / "__init__.py").exists(), folder
