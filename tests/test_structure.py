"""Rules about the code itself."""

import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import mrisr_node

ROOT = Path(mrisr_node.__file__).parent.parent


def _modules():
    found = pkgutil.walk_packages(mrisr_node.__path__, "mrisr_node.")
    return sorted(module.name for module in found)


def test_dependencies_point_one_way():
    tool = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([tool, "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", _modules())
def test_every_export_exists(name):
    module = importlib.import_module(name)
    for export in getattr(module, "__all__", []):
        assert hasattr(module, export), f"{name}.{export}"


def test_no_module_is_longer_than_its_one_job():
    long = {
        str(path.relative_to(ROOT)): lines
        for path in (ROOT / "mrisr_node").rglob("*.py")
        if (lines := len(path.read_text().splitlines())) > 400
    }
    assert long == {}
