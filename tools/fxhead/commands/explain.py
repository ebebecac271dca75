"""``fxhead explain``."""

from __future__ import annotations

import click

from fxhead.commands.finish import finish
from fxhead.commands.options import output_options
from fxhead.outcome import ExitCode


@click.command("explain")
@click.argument("code", required=False)
@output_options
def explain_command(code: str | None, as_json: bool) -> ExitCode:
    """Explain the CODE of a miss, or list all codes.

    Says what the code means, what to do about it, and shows an example that has it.
    """
    from fxhead.explain.run import run_explain

    return finish(lambda: run_explain(code), as_json=as_json)
