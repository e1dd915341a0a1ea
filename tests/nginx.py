"""A real nginx before a node, with the configuration that the project ships."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from mrisr_node.settings import Settings

CONFIG = Path(__file__).parent.parent / "docs" / "nginx.conf"
NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")


@contextmanager
def proxied(settings: Settings, folder: Path, port: int) -> Iterator[str]:
    """Run nginx without TLS at a port; give the address."""
    assert NGINX
    text = CONFIG.read_text()
    for there, here in {
        "listen 8443 ssl;": f"listen 127.0.0.1:{port};",
        "127.0.0.1:8080": f"127.0.0.1:{settings.web_port}",
        "127.0.0.1:8042": f"127.0.0.1:{settings.orthanc_http_port}",
        "/run/mrisr_nginx": f"{folder}/allowed",
    }.items():
        assert there in text
        text = text.replace(there, here)
    text = re.sub(r"^ *ssl_certificate.*\n", "", text, flags=re.MULTILINE)
    login = f"{settings.orthanc_username}:{settings.pacs_password()}"
    basic = b64encode(login.encode()).decode()
    (folder / "mrisr_orthanc.inc").write_text(f'proxy_set_header Authorization "Basic {basic}";\n')
    (folder / "mrisr_node.conf").write_text(text)
    user = "user root;" if os.geteuid() == 0 else ""
    temporary = "".join(
        f"{name}_temp_path {folder}/{name};\n"
        for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"{user}\ndaemon off;\npid {folder}/pid;\nerror_log {folder}/error.log;\n"
        f"events {{}}\nhttp {{\naccess_log {folder}/access.log;\n{temporary}"
        f"include mrisr_node.conf;\n}}\n"
    )
    command = [NGINX, "-p", str(folder), "-c", str(folder / "nginx.conf")]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            url = f"http://127.0.0.1:{port}"
            _wait_until_it_answers(url, folder)
            yield url
        finally:
            process.terminate()


def _wait_until_it_answers(url: str, folder: Path) -> None:
    end = time.monotonic() + 30
    while True:
        try:
            if httpx.get(f"{url}/healthz", trust_env=False).is_success:
                return
        except httpx.HTTPError:
            pass
        assert time.monotonic() < end, (folder / "error.log").read_text()
        time.sleep(0.1)
