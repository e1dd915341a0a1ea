"""OHIF and NiiVue are taken only as they were pinned."""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "ohif-config" / "fetch.py"


@pytest.fixture
def fetch(monkeypatch):
    spec = importlib.util.spec_from_file_location("ohif_fetch", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["ohif", "niivue"])
def test_another_package_is_refused(fetch, tmp_path, name):
    archive = tmp_path / "package.tgz"
    archive.write_bytes(b"something else")
    pin = json.loads((SCRIPT.parent / f"{name}.json").read_text())
    with pytest.raises(fetch.FetchError, match="not the package that was pinned"):
        fetch.verify(archive, pin["integrity"])


def test_without_npm_it_says_what_to_do_for_each(fetch, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    packages = [replace(one, place=tmp_path / one.name) for one in fetch.PACKAGES]
    monkeypatch.setattr(fetch, "PACKAGES", packages)
    assert fetch.main() == 1
    said = capsys.readouterr().err
    assert said.count("apt-get install npm") == 2
    assert "OHIF: " in said
    assert "NiiVue: " in said
    assert list(tmp_path.iterdir()) == []


def test_a_second_run_does_nothing(fetch, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    for one in fetch.PACKAGES:
        package = replace(one, place=tmp_path)
        (tmp_path / ".stamp").write_text(package.stamp)
        assert fetch.ensure(package) is False
        (tmp_path / ".stamp").write_text("of an older pin")
        with pytest.raises(fetch.FetchError):
            fetch.ensure(package)


def test_of_niivue_only_the_bundle_is_served(fetch, tmp_path):
    (tmp_path / "dist").mkdir()
    (tmp_path / "dist" / "index.js").write_text("export {};")
    (tmp_path / "dist" / "niivue.umd.js").touch()
    served = fetch.cut_niivue(tmp_path)
    assert [path.name for path in served.iterdir()] == ["niivue.js"]
    (tmp_path / "next").mkdir()
    with pytest.raises(fetch.FetchError, match="must learn"):
        fetch.cut_niivue(tmp_path / "next")


def test_paths_move_and_nothing_is_forgotten(fetch, tmp_path):
    (tmp_path / "app.bundle.1.js").write_text('__webpack_require__.p = "/";')
    (tmp_path / "index.html").write_text(
        '<script>window.PUBLIC_URL="/"</script><a href="/x"><a href="//y"><img src="/z">'
    )
    (tmp_path / "app.bundle.css").write_text("a{src:url(/font.woff2)}")
    (tmp_path / "manifest.json").write_text('{"src": "/assets/icon.png"}')
    fetch.move_under_prefix(tmp_path, "/v/")
    assert (tmp_path / "app.bundle.1.js").read_text() == '__webpack_require__.p = "/v/";'
    assert (tmp_path / "index.html").read_text() == (
        '<script>window.PUBLIC_URL="/v/"</script><a href="/v/x"><a href="//y"><img src="/v/z">'
    )
    assert (tmp_path / "app.bundle.css").read_text() == "a{src:url(/v/font.woff2)}"
    assert "/v/assets/icon.png" in (tmp_path / "manifest.json").read_text()
    # An OHIF that says it in another way must not be served half moved.
    with pytest.raises(fetch.FetchError, match="must learn"):
        fetch.move_under_prefix(tmp_path, "/v/")
