"""OHIF is taken only as it was pinned."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "ohif-config" / "fetch.py"


@pytest.fixture
def fetch():
    spec = importlib.util.spec_from_file_location("ohif_fetch", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_another_package_is_refused(fetch, tmp_path):
    archive = tmp_path / "ohif.tgz"
    archive.write_bytes(b"something else")
    with pytest.raises(fetch.FetchError, match="not the package that was pinned"):
        fetch.verify(archive, json.loads((SCRIPT.parent / "ohif.json").read_text())["integrity"])


def test_without_npm_it_says_what_to_do(fetch, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(fetch, "DIST", tmp_path / "dist")
    assert fetch.main() == 1
    assert "apt-get install npm" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_second_run_does_nothing(fetch, tmp_path, monkeypatch):
    (tmp_path / ".stamp").write_text(fetch.stamp_text())
    monkeypatch.setenv("PATH", "")
    assert fetch.ensure(tmp_path) is False
    (tmp_path / ".stamp").write_text("of an older pin")
    with pytest.raises(fetch.FetchError):
        fetch.ensure(tmp_path)


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
