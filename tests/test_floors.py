"""The house's floors: which room may import which, read from the source by `ast`.

Read next: tests/conftest.py.
"""

import ast
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
COMMANDS = {"engine/train.py", "engine/evaluate.py", "engine/export.py", "engine/__init__.py",
            "lsuv/__main__.py"}
SAME = {"kernels.philox", "kernels.clock", "kernels.errors"}  # the same on every device
MAY = {
    "kernels": {"numpy", "ml_dtypes", "kernels"},
    "kernels/cuda": {"cupy", "cupy_backends", "cudnn"},  # besides
    "engine": {"numpy", "safetensors", "pooch", "PIL", "rich", "engine"} | SAME,
    "lsuv": {"numpy", "engine", "lsuv"} | SAME,
    "models": {"engine", "models"},
}


def imports(path: pathlib.Path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module


def test_the_commands_that_may_import_everything_exist():
    assert all((ROOT / path).is_file() for path in COMMANDS)


def test_rooms_import_only_what_their_floor_allows():
    checked = 0
    for room, allowed in MAY.items():
        for path in sorted((ROOT / room).rglob("*.py")):
            if str(path.relative_to(ROOT)) in COMMANDS:
                continue
            for name in imports(path):
                top = name.split(".")[0]
                fine = top in sys.stdlib_module_names or top in allowed or name in allowed
                fine |= path.is_relative_to(ROOT / "kernels/cuda") and top in MAY["kernels/cuda"]
                fine |= room == "kernels/cuda" and top in MAY["kernels"]
                assert fine, f"{path.relative_to(ROOT)} imports {name}"
                checked += 1
    assert checked > 50


def test_nothing_imports_bench_or_tests():
    for room in MAY:
        for path in (ROOT / room).rglob("*.py"):
            assert not any(n.split(".")[0] in ("bench", "tests") for n in imports(path)), path


def test_modules_say_what_to_read_next():
    for room in MAY:
        for path in (ROOT / room).rglob("*.py"):
            text = ast.get_docstring(ast.parse(path.read_text())) or ""
            assert "Read next:" in text, path
