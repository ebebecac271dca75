"""``fxhead check``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from fxhead.commands.finish import finish
from fxhead.commands.options import (
    FILE,
    PATH,
    beside_options,
    images_given,
    providers_option,
    require_option,
    source_options,
    sources_given,
    split,
)
from fxhead.outcome import ExitCode
from fxhead.show import render
from fxhead.source import Source


@click.command("check")
@click.argument("reference", required=False, type=FILE)
@click.argument("candidate", required=False, type=FILE)
@providers_option
@require_option
@click.option("--plan", type=PATH, metavar="PLAN.json", help="The weight plan that rewrite wrote.")
@click.option(
    "--inputs",
    type=FILE,
    metavar="DATA",
    help="Samples to run: an .npz or .npy file, an image, or a folder of images. Default: random ones.",
)
@click.option(
    "--samples",
    type=click.IntRange(1, 1_000_000),
    help="How many random samples to run. Default: 8.",
)
@click.option(
    "--size",
    metavar="CROP|SHORT,CROP|HxW",
    help="For images: shorter side after resizing, and the square cut from the centre; or height and width "
    "that the whole image is resized to. "
    "Default: the model's own input, from a shorter side 256/224 as long.",
)
@click.option("--mean", metavar="R,G,B", help="For images: subtracted, of 0 … 1. Default: ImageNet's.")
@click.option("--std", metavar="R,G,B", help="For images: divided by. Default: ImageNet's.")
@click.option(
    "-o",
    "--output",
    "out",
    type=PATH,
    metavar="CERT.json",
    help="Also write the certificate to this file.",
)
@beside_options
@click.option("--force", is_flag=True, help="Replace a certificate that exists.")
@click.option(
    "--replay",
    type=FILE,
    metavar="CERT.json",
    help="Do again what a certificate says was done, and compare; takes no other models or inputs.",
)
@source_options
def check_command(
    reference: str | None, candidate: str | None, replay: str | None, as_json: bool, **given: Any
) -> ExitCode:
    """Prove or refute that two models are one function.

    CANDIDATE is compared with REFERENCE; either may also be an .onnx file.

    Images are turned upright, resized, cropped, scaled to 0 … 1 and standardised, as torchvision does for
    classification; all samples of --inputs are run, in sorted order.
    """
    if replay is not None:
        _require_alone()
        return _replay(Path(replay), trust=given["trust"], as_json=as_json)
    for name, value in (("REFERENCE", reference), ("CANDIDATE", candidate)):
        if value is None:
            raise _misuse(f"Missing argument '{name}'")
    from fxhead.check.beside import Beside
    from fxhead.check.examine import Question
    from fxhead.check.run import CheckOptions, run_check
    from fxhead.inputs.options import DataOptions

    data = DataOptions(path=given["inputs"], samples=given["samples"], **images_given(given))
    question = Question(
        models=(Source.parse(str(reference)), Source.parse(str(candidate))),
        providers=split(given["providers"]),
        plan=given["plan"],
        data=data,
        **sources_given(given),
    )
    options = CheckOptions(
        question=question,
        out=given["out"],
        force=given["force"],
        beside=Beside(html=given["html"], attest=given["attest"]),
        require=given["require"],
    )
    return finish(lambda: run_check(options, render.TerminalProgress()), as_json=as_json)


_WITH_REPLAY = ("replay", "trust", "as_json", "debug")


def _require_alone() -> None:
    """Returns where nothing was given that the certificate says."""
    context = click.get_current_context()
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if source is click.core.ParameterSource.COMMANDLINE and parameter.name not in _WITH_REPLAY:
            name = (
                parameter.opts[-1] if isinstance(parameter, click.Option) else parameter.human_readable_name
            )
            raise _misuse(f"--replay does what the certificate says, and takes no {name}")


def _misuse(what: str) -> click.UsageError:
    return click.UsageError(what, click.get_current_context())


def _replay(path: Path, *, trust: bool, as_json: bool) -> ExitCode:
    from fxhead.check.replay import run_replay

    progress = render.TerminalProgress()
    return finish(lambda: run_replay(path, trust=trust, progress=progress), as_json=as_json)
