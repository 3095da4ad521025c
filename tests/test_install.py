"""What an installation must give: the fast device where it can be built, the reference elsewhere.

Read next: setup.py.
"""

import platform
import re
import shutil
import subprocess
import sys
import tomllib

import pytest

import kernels
import kernels.cuda
from helpers.programs import ROOT

ROOMS = ("engine", "kernels", "lsuv", "models", "bench", "tests")
BUILDS = (sys.platform, platform.machine()) == ("linux", "x86_64") and shutil.which("c++")
PREVENT = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name == "kernels.cpu._native":
            raise ImportError("made absent for this test")
sys.meta_path.insert(0, Absent())
"""


@pytest.mark.skipif(not BUILDS, reason="Linux x86-64 with a compiler builds the extension")
def test_cpu_is_the_device_where_it_can_be_built():
    assert kernels.ops_for("auto").name == "cpu", kernels.ops_for("auto").why


def test_without_the_extension_a_run_goes_on_numpy_and_says_so(tmp_path):
    code = PREVENT + (
        "from engine.train import main\n"
        "main(['--net', 'fitnet_mnist', '--data', 'synthetic', '--limit', '64',"
        f"'--epochs', '1', '--out', {str(tmp_path / 'run')!r}])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "device numpy: the native extension does not load" in done.stdout
    assert "device numpy  data synthetic" in done.stdout.splitlines()[-1]


@pytest.mark.skipif(kernels.cuda.has_driver(), reason="there is a GPU's driver")
def test_the_cuda_device_is_refused_in_one_line():
    code = "import kernels\ntry: kernels.ops_for('cuda')\nexcept kernels.DeviceError as e: print(e)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    words = done.stdout.rstrip()
    assert words.startswith("device cuda: missing: ") and "NVIDIA driver" in words, done.stderr
    assert "\n" not in words and "a driver comes with the GPU's system" in words


def test_importing_a_room_loads_no_device():
    code = (
        "import sys, kernels, engine, engine.net, lsuv, models\n"
        "print([m for m in sys.modules if m.startswith('kernels.cpu') or m == 'pooch'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_every_package_is_in_the_distribution():
    from setuptools import find_packages

    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    packages = set(find_packages(str(ROOT), include=settings["packages"]["find"]["include"]))
    packages |= {  # what is held as data
        f"{package}.{pattern.removesuffix('/*.py')}"
        for package, patterns in settings["package-data"].items()
        for pattern in patterns
        if pattern.endswith("/*.py")
    }
    folders = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for room in ROOMS[:-1]
        for path in (ROOT / room).rglob("*.py")
    }
    assert folders <= packages


def test_the_cuda_kernels_are_in_the_distribution():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    held = {
        path
        for package, patterns in settings["package-data"].items()
        for pattern in patterns
        for path in (ROOT / package.replace(".", "/")).glob(pattern)
    }
    kernels = {
        path
        for room in ("kernels", "bench")
        for path in (ROOT / room).rglob("*")
        if path.suffix in (".cu", ".cuh") or path.is_relative_to(ROOT / "kernels" / "emulated")
        if path.suffix in (".cu", ".cuh", ".cpp", ".h")
    }
    assert ROOT / "kernels" / "emulated" / "emulator.h" in kernels
    assert kernels and kernels <= held


def test_a_source_distribution_holds_all_sources():
    """MANIFEST.in has a line for every folder and kind of file that is neither a module nor named
    by setuptools itself."""
    held = {ROOT / name for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE")}
    for line in (ROOT / "MANIFEST.in").read_text().splitlines():
        command, *names = line.split()
        if command == "include":
            held |= {path for name in names for path in ROOT.glob(name)}
        elif command == "recursive-include":
            held |= {path for name in names[1:] for path in (ROOT / names[0]).rglob(name)}
        else:
            raise AssertionError(f"MANIFEST.in: {line}")
    kinds = {".py", ".cpp", ".h", ".cu", ".cuh", ".c", ".md", ".supp"}
    sources = {path for room in ROOMS for path in (ROOT / room).rglob("*") if path.suffix in kinds}
    modules = {path for room in ROOMS[:-1] for path in (ROOT / room).rglob("*.py")}
    assert sources - modules - held == set()


def test_the_changes_of_this_version_are_told_and_its_modules_are_there():
    text = (ROOT / "CHANGELOG.md").read_text()
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"\n## {version}\n" in text
    moved = re.findall(r"^\| `([a-z_.0-9]+)` \| `([a-z_.0-9]+)` \|$", text, re.M)
    assert len(moved) > 10

    def there(name: str) -> bool:
        path = ROOT / name.replace(".", "/")
        return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()

    assert not [old for old, _ in moved if there(old)] + [new for _, new in moved if not there(new)]
