"""``fxhead convert-weights``."""

from __future__ import annotations

from typing import Any

import click

from fxhead.commands.finish import finish
from fxhead.commands.options import FILE, PATH, output_options
from fxhead.outcome import ExitCode
from fxhead.show import render


@click.command("convert-weights")
@click.argument("checkpoint", type=PATH)
@click.option(
    "--plan",
    required=True,
    metavar="PLAN.json",
    type=PATH,
    help="The weight plan that rewrite wrote.",
)
@click.option("--reverse", is_flag=True, help="Go the plan's way backwards.")
@click.option(
    "-o",
    "--output",
    "out",
    type=FILE,
    metavar="OUT",
    help="The file to write, or a folder. Default: beside CHECKPOINT.",
)
@click.option(
    "--prefix",
    "prefixes",
    multiple=True,
    metavar="backbone.",
    help="What stands before the plan's names in the checkpoint. Default: none, what wrappers add, or what "
    "all names have in common.",
)
@click.option(
    "--optimizer-names",
    metavar="FILE",
    type=PATH,
    help="The names of the optimiser's parameters in its order, one a line, where shapes do not tell.",
)
@click.option(
    "--allow",
    "allowed",
    multiple=True,
    metavar="package.Name",
    help="Keep what the checkpoint has of this class; it is copied, never run.",
)
@click.option("--force", is_flag=True, help="Replace a file that exists; never the input.")
@output_options
def convert_command(as_json: bool, **given: Any) -> ExitCode:
    """Take a checkpoint to the other form, without the model.

    CHECKPOINT is a state dict or a whole training checkpoint, as torch.save or safetensors wrote it.
    Weights, averaged weights and the optimiser's state are reshaped, everything else is copied as it is,
    byte for byte; nothing in the file is run.
    """
    from fxhead.convert.run import ConvertOptions, run_convert

    options = ConvertOptions(**given)
    return finish(lambda: run_convert(options, render.TerminalProgress()), as_json=as_json)
