"""What every command shares: the application, its two consoles, its log and its errors."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from mrisr_node import __version__
from mrisr_node.errors import NodeError, SettingsError
from mrisr_node.logs import start_logging
from mrisr_node.settings import Settings, load_settings

if TYPE_CHECKING:
    from mrisr_node.cli.remote import Server

__all__ = [
    "app",
    "command",
    "err",
    "existing_node",
    "opened_node",
    "out",
    "plain",
    "progress_bar",
    "server",
    "start_logging",
]

_ELSEWHERE = ("jobs", "send", "resolve")
# Columns of what is no terminal: nobody sees where its lines end.
_ENDLESS = 10_000

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


def _console(*, stderr: bool = False) -> Console:
    """Return a console that wraps at the edge of a terminal, and nowhere else."""
    console = Console(stderr=stderr)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = _ENDLESS
    return console


out = _console()
err = _console(stderr=True)


def _tell_version(wanted: bool) -> None:
    if wanted:
        out.print(__version__, highlight=False)
        raise typer.Exit


@app.callback()
def main(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", help="tell it, and end", callback=_tell_version, is_eager=True),
    ] = False,
    server: Annotated[
        str | None,
        typer.Option(
            help="a node elsewhere, for jobs, send and resolve: https://…; its token is read from"
            " MRISR_TOKEN, or from the file that MRISR_TOKEN_FILE names"
        ),
    ] = None,
) -> None:
    """MRI super-resolution node: thick MR slices in from the PACS, thin ones back beside them."""
    if server and context.invoked_subcommand not in _ELSEWHERE:
        raise typer.BadParameter(f"--server is for {', '.join(_ELSEWHERE)}; this one is for here")
    context.obj = server


def server(context: typer.Context) -> Server | None:
    """Return the node elsewhere that a command is for; None: it is for this machine."""
    from mrisr_node.cli.remote import Server

    if not context.obj:
        return None
    remote = Server(context.obj)
    context.call_on_close(remote.close)
    return remote


def command(
    function: Callable[..., Any], to: typer.Typer = app, name: str | None = None
) -> Callable[..., Any]:
    """Add a command that ends with the message of an error that is ours, without a traceback.

    It is named after its function, or by `name`.
    """

    @wraps(function)
    def guarded(*args: Any, **keywords: Any) -> Any:  # noqa: ANN401 - passes through
        try:
            return function(*args, **keywords)
        except NodeError as error:
            err.print(f"mrisr-node: {error}", style="red", markup=False, highlight=False)
            raise typer.Exit(2 if isinstance(error, SettingsError) else 1) from error

    return to.command(name)(guarded)


def plain(text: str) -> Text:
    """Return words from outside as they are: no markup, and nothing that moves the cursor."""
    return Text("".join(c if c.isprintable() else " " for c in text))


def existing_node(settings: Settings) -> Settings:
    """Return the settings of a node that is there.

    Raises
    ------
    SettingsError
        There is none: the folder is a wrong one, and no node is made in it.
    """
    if not settings.database_path.is_file():
        raise SettingsError(f"there is no node in {settings.data_dir}; set data_dir")
    return settings


def opened_node() -> Settings:
    """Open the records of the node that the settings name, and return these.

    Raises
    ------
    SettingsError
        As `existing_node`.
    """
    from mrisr_node.records import open_records

    settings = existing_node(load_settings())
    open_records(settings.database_path)
    return settings


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """Show a bar with the time it has taken and is going to take, on standard error."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err) as bar:
        yield bar
