"""A front door for the tests, and the ways in."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx
import psutil
import uvicorn
from fastapi import FastAPI

from mrisr_node.people.tokens import create_token
from mrisr_node.people.users import ensure_admin, set_password
from mrisr_node.settings import Settings
from mrisr_node.web.app import create_app

PASSWORD = "correct horse battery staple"


@dataclass(frozen=True)
class Door:
    settings: Settings
    url: str
    token: str
    app: FastAPI

    def client(self, **headers: str) -> httpx.Client:
        """A client without credentials."""
        return httpx.Client(base_url=self.url, headers=headers, timeout=60, trust_env=False)

    def tool(self) -> httpx.Client:
        """A client with a bearer token."""
        return self.client(Authorization=f"Bearer {self.token}")

    @contextmanager
    def browser(self) -> Iterator[httpx.Client]:
        """A client that is signed in by cookie."""
        with self.client(Origin=self.url) as client:
            form = {"username": "admin", "password": PASSWORD}
            assert client.post("/sign-in", data=form).status_code == 303
            yield client


@contextmanager
def served(settings: Settings) -> Iterator[Door]:
    """Serve a front door at the port of the settings, in a thread."""
    ensure_admin(settings)
    set_password("admin", PASSWORD)
    app = create_app(settings, lambda: server.should_exit)
    config = uvicorn.Config(app, port=settings.web_port, log_level="warning")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        deadline = time.monotonic() + 20
        while not server.started:
            assert thread.is_alive()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        url = f"http://127.0.0.1:{settings.web_port}"
        yield Door(settings, url, create_token("admin", "tests"), app)
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


@contextmanager
def flat_memory() -> Iterator[None]:
    """Hold the memory of this process, in which the door is, far below what a body would need."""
    process, most, ended = psutil.Process(), [0], threading.Event()

    def watch() -> None:
        while not ended.wait(0.01):
            most.append(process.memory_info().rss)

    before = process.memory_info().rss
    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()
    assert max(most) - before < 64 * 1024**2
