"""``fxhead cam``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from fxhead.commands.finish import finish
from fxhead.commands.options import FILE, PATH, images_given, source_options, sources_given, trace_option
from fxhead.outcome import ExitCode
from fxhead.show import render
from fxhead.source import Source

if TYPE_CHECKING:
    from fxhead.outcome import Outcome


@click.command("cam")
@click.argument("source", type=FILE)
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...", type=FILE)
@click.option(
    "-o",
    "--output",
    "out",
    type=PATH,
    metavar="OUT",
    default="fxhead-cam",
    help="Folder for the pictures, the sheet and maps.npz.",
)
@click.option(
    "--top",
    type=click.IntRange(1, 20),
    default=3,
    help="Draw so many classes of each image, those of the highest logits.",
)
@click.option(
    "--classes",
    multiple=True,
    metavar="3,7",
    help="Draw these classes instead, by number or label; may be given more than once.",
)
@click.option(
    "--labels",
    type=PATH,
    metavar="FILE",
    help="Names of the classes: one a line, or JSON (a list, or a dict as ImageNet's class index). "
    "Default: those of torchvision's weights, where they are named, or of a folder.",
)
@click.option(
    "--head",
    metavar="NAME|NUMBER",
    help="Which head to draw, of a model that gives several; inspect lists them. Heads that are joined "
    "along the classes are one.",
)
@click.option(
    "--size",
    metavar="CROP|SHORT,CROP|HxW",
    help="Shorter side after resizing, and the square cut from the centre; or height and width that the "
    "whole image is resized to. The maps grow with it. Default: torchvision's or timm's for its own "
    "models, a folder's, else the model's input.",
)
@click.option(
    "--mean", metavar="R,G,B", help="Subtracted, of 0 … 1. Default: torchvision's own, else ImageNet's."
)
@click.option("--std", metavar="R,G,B", help="Divided by. Default: torchvision's own, else ImageNet's.")
@click.option("--batch", type=click.IntRange(1, 4096), default=8, help="Images that run at once.")
@click.option("--force", is_flag=True, help="Replace files that exist; never the input.")
@trace_option
@source_options
def cam_command(source: str, as_json: bool, **given: Any) -> ExitCode:
    """Draw where in each IMAGE the classes get their score.

    That is a class activation map of SOURCE. The head moves before its pool, so that one forward pass gives
    the logits and, for every class, the map of scores whose mean the logit is. Writes IMAGE.cam.png for
    each image, one sheet.png of several, and the arrays in maps.npz: all of them, or none. IMAGE is a file
    or a folder; SOURCE may also be an .onnx file. Needs fxhead[cam].
    """

    def job() -> Outcome:
        from fxhead.extras import require_extra

        require_extra("cam")
        from fxhead.cam.run import CamOptions, run_cam

        images = images_given(given)
        options = CamOptions(source=Source.parse(source), **images, **sources_given(given), **given)
        return run_cam(options, render.TerminalProgress())

    return finish(job, as_json=as_json)
