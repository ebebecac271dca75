"""``fxhead schema``."""

from __future__ import annotations

import click

from fxhead.commands.options import output_options
from fxhead.outcome import ExitCode
from fxhead.show import render


@click.command("schema")
@click.argument("name", type=click.Choice(["result", "plan", "certificate", "statement", "batch-row"]))
@output_options
def schema_command(name: str, as_json: bool) -> ExitCode:
    """Print the JSON Schema of what fxhead writes.

    result: what a command says with --json (study's aside); plan: *.plan.json; certificate:
    *.certificate.json and check -o; statement: *.intoto.json; batch-row: a line of
    batch.jsonl.
    """
    from fxhead.schema.documents import SCHEMAS

    render.show_document(SCHEMAS[name]())
    return ExitCode.DONE
