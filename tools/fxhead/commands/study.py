"""``fxhead study``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from fxhead.commands.finish import finish
from fxhead.commands.options import FILE, output_options
from fxhead.outcome import ExitCode
from fxhead.show import render

if TYPE_CHECKING:
    from fxhead.outcome import Outcome


@click.command("study")
@click.option(
    "--data",
    type=FILE,
    metavar="FOLDER",
    help="Images, one folder a class inside. Default: scikit-learn's digits, which need no download.",
)
@click.option(
    "--image-size",
    type=click.IntRange(8, 512),
    default=32,
    help="Edge in pixels to which the images of --data are resized and cropped.",
)
@click.option(
    "--seeds",
    type=click.IntRange(2, 10_000),
    default=50,
    help="Runs a head; more can be added to a study later.",
)
@click.option("--epochs", type=click.IntRange(min=1), default=10, help="Of each run.")
@click.option(
    "--optimizer",
    type=click.Choice(["sgd", "adam"]),
    default="sgd",
    help="sgd has a momentum of 0.9.",
)
@click.option(
    "--learning-rate",
    type=click.FloatRange(min=0, min_open=True),
    default=0.05,
    help="Of the first step; it falls along a cosine to 0.",
)
@click.option("--batch-size", type=click.IntRange(min=2), default=64, help="Images a step.")
@click.option(
    "--alpha",
    type=click.FloatRange(0, 0.5, min_open=True),
    default=0.01,
    help="A p-value below it is systematic; intervals have the confidence 1 - alpha.",
)
@click.option(
    "--margin",
    type=click.FloatRange(min=0, min_open=True),
    default=1.0,
    help="Largest difference in accuracy that does not matter, in percentage points.",
)
@click.option(
    "--jobs", type=click.IntRange(min=1), help="Processes that train side by side. Default: one a core."
)
@click.option(
    "--scheduler",
    metavar="tcp://HOST:8786",
    help="Train on the workers of a Dask cluster, which have to be machines like this one.",
)
@click.option(
    "-o",
    "--output",
    "out",
    type=FILE,
    metavar="OUT",
    default="fxhead-study",
    help="Folder of the finished runs, study.json and study.png; a study that is there already goes on.",
)
@click.option("--seed", type=click.IntRange(0, 2**40), default=0, help="All seeds follow it.")
@output_options
def study_command(as_json: bool, **given: Any) -> ExitCode:
    """Train both forms over many seeds, and compare them.

    A Linear head and the same head as a 1×1 convolution are trained from the same seeds and from others.
    Says whether torch fills the two layers alike, whether they train alike from the same weights, and
    whether their accuracies differ by more than the seeds make them: chance, systematic, or too few
    seeds to say. A head that is different, and one that is not, are compared in the same way as controls.
    Needs fxhead[study].
    """

    def job() -> Outcome:
        from fxhead.extras import require_extra
        from fxhead.study.settings import study_options

        require_extra("study")
        from fxhead.study.run import run_study

        return run_study(study_options(**given), render.TerminalProgress())

    return finish(job, as_json=as_json)
