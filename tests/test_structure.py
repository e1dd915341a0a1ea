"""Rules about the code itself."""

import importlib
import os
import pkgutil
import re
import shutil
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


def _documents():
    return [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("path", _documents(), ids=lambda path: path.name)
def test_documents_hold_no_placeholder_and_lead_to_files_that_exist(path):
    text = path.read_text()
    assert re.findall(r"@@\w*", text) == []
    targets = re.findall(r"\]\(([^)\s]+)[^)]*\)", text)
    targets += re.findall(r"(?:src|href)=\"([^\"]+)\"", text)
    relative = [t.partition("#")[0] for t in targets if not re.match(r"[a-z]+:|#", t)]
    known = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    broken = []
    for target in filter(None, relative):
        place = (path.parent / target).resolve()
        name = os.path.relpath(place, ROOT)
        # In the repository, not just on this disk.
        if name not in known and not any(file.startswith(f"{name}/") for file in known):
            broken.append(target)
    assert broken == []


@pytest.mark.parametrize("failing", ["update", "install", "update install"])
def test_setup_goes_on_where_packages_cannot_be_fetched(tmp_path, failing):
    """A machine without a network that lacks a browser: said, and no reason to stop."""
    for name in ("bash", "env", "python3", "storescu", "npm", "true"):
        (tmp_path / name).symlink_to(shutil.which(name) or "/bin/true")
    stubs = {
        "apt-get": f'case " {failing} " in *" $1 "*) echo "cannot fetch" >&2; exit 100;; esac',
        "id": "echo 1000",
        "sudo": 'shift; exec "$@"',
    } | dict.fromkeys(("tee", "chmod", "rm", "update-rc.d"), "exit 0")
    for name, words in stubs.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{words}\n")
        (tmp_path / name).chmod(0o755)
    done = subprocess.run(
        ["/bin/bash", ROOT / "orthanc" / "install.sh"],
        env={"PATH": str(tmp_path)}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "chromium" in done.stderr
    assert ("Install by hand" in done.stderr) is ("install" in failing)
