"""``fxhead inspect``."""

from __future__ import annotations

from typing import Any

import click

from fxhead.commands.finish import finish
from fxhead.commands.options import FILE, FORMS, scope_option, source_options, sources_given, trace_option
from fxhead.outcome import ExitCode
from fxhead.show import render
from fxhead.source import Source


@click.command("inspect")
@click.argument("source", type=FILE)
@click.option(
    "--to",
    type=FORMS,
    help="List the sites that have this form or can get it, and why the others cannot. "
    "Default: those that can be linear and conv.",
)
@scope_option
@trace_option
@source_options
def inspect_command(source: str, to: str | None, scope: str, as_json: bool, **given: Any) -> ExitCode:
    """List what can be rewritten, and why the rest cannot.

    That is every site of SOURCE, and every miss with its code: fxhead explain CODE says more of it.
    """
    from fxhead.inspect.run import run_inspect
    from fxpasses.report import Form, Scope

    return finish(
        lambda: run_inspect(
            Source.parse(source),
            scope=Scope(scope),
            to=Form(to) if to else None,
            **sources_given(given),
            **given,
            progress=render.TerminalProgress(),
        ),
        as_json=as_json,
    )
