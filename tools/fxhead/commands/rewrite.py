"""``fxhead rewrite``."""

from __future__ import annotations

from typing import Any

import click

from fxhead.commands.finish import finish
from fxhead.commands.options import (
    FILE,
    FORMS,
    beside_options,
    providers_option,
    require_option,
    scope_option,
    source_options,
    sources_given,
    split,
    trace_option,
)
from fxhead.outcome import ExitCode
from fxhead.show import render
from fxhead.source import Source


@click.command("rewrite")
@click.argument("source", type=FILE)
@click.option(
    "--to",
    type=FORMS,
    required=True,
    help="The form that the sites get. dense: before the pool; fcn: on every window of a larger input; "
    "unfold: every Conv2d as a matrix product of its patches (im2col).",
)
@click.option("--with-map", is_flag=True, help="With dense: give the map of scores out beside the logits.")
@click.option(
    "-o",
    "--output",
    "out",
    type=FILE,
    metavar="OUT",
    help="The file to write (.pt, or .pt2 for an exported program), or a folder; the other files lie "
    "beside it. Default: next to SOURCE.",
)
@scope_option
@trace_option
@providers_option
@require_option
@click.option("--opset", type=click.IntRange(min=1), help="Opset of the ONNX files.")
@click.option(
    "--fold-norms",
    is_flag=True,
    help="Multiply batch norms into the weights of the convolutions before them, in the ONNX files.",
)
@click.option("--no-onnx", is_flag=True, help="Write no ONNX files, and check nothing.")
@click.option("--no-check", is_flag=True, help="Of an ONNX file: write the other form, and check nothing.")
@click.option(
    "--link-data",
    is_flag=True,
    help="Of an ONNX file with weights in other files: refer to those, and copy nothing.",
)
@beside_options
@click.option("--force", is_flag=True, help="Replace files that exist; never the input.")
@source_options
def rewrite_command(
    source: str,
    to: str,
    scope: str,
    providers: str | None,
    no_onnx: bool,
    no_check: bool,
    html: bool,
    attest: bool,
    as_json: bool,
    **given: Any,
) -> ExitCode:
    """Rewrite the head, export both forms, and check them.

    The head of SOURCE gets another form, and both are exported to ONNX and proved to be the same function.
    Writes MODEL.conv.pt (or .linear.pt), MODEL.linear.onnx, MODEL.conv.onnx, the weight plan and the
    certificate: all of them, or nothing where the check says "broken". What torch.export traced is
    written as MODEL.conv.pt2. The model is put in eval mode. The ONNX files of the forms dense and fcn take
    any height and width, where the model does.

    Of an ONNX file, MODEL.onnx, writes MODEL.conv.onnx, the plan and the certificate; the way back gives the
    file byte for byte.
    """
    from fxhead.check.beside import Beside
    from fxhead.rewriting.options import RewriteOptions
    from fxhead.rewriting.run import run_rewrite
    from fxhead.rewriting.run_onnx import run_rewrite_onnx
    from fxhead.source import SourceKind
    from fxpasses.report import Form, Scope

    options = RewriteOptions(
        source=Source.parse(source),
        to=Form(to),
        scope=Scope(scope),
        providers=split(providers),
        with_onnx=not no_onnx,
        with_check=not no_check,
        beside=Beside(html=html, attest=attest),
        **sources_given(given),
        **given,
    )
    run = run_rewrite_onnx if options.source.kind is SourceKind.ONNX else run_rewrite
    return finish(lambda: run(options, render.TerminalProgress()), as_json=as_json)
