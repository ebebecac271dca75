"""``fxhead batch``."""

from __future__ import annotations

import math
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fxhead.commands.finish import finish
from fxhead.commands.options import (
    FILE,
    FORMS,
    PATH,
    beside_options,
    output_options,
    providers_option,
    require_option,
    scope_option,
)
from fxhead.commands.rewrite import rewrite_command
from fxhead.outcome import ExitCode
from fxhead.show import render

if TYPE_CHECKING:
    from fxhead.outcome import Outcome

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 2**10, "mi": 2**20, "gi": 2**30}

_THE_BATCH_S_OWN = {"out", "as_json", "force"}
_OF_EVERY_ROW = ("to", "scope", "providers", "no_onnx", "html", "attest")


class _Bytes(click.ParamType[int]):
    """A number of bytes as people write it: 4G, 4GiB, 800M."""

    name = "bytes"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        found = re.fullmatch(r"(\d{1,18}(?:\.\d+)?)\s*([kmg]i?)?b?", str(value).strip().lower())
        if found is None:
            self.fail(f"{value!r} is no number of bytes, as in 4GiB", param, ctx)
        limit = int(float(found[1]) * _UNITS[found[2] or ""])
        if not limit:
            self.fail("no model runs in no memory", param, ctx)
        return limit


def _seconds(ctx: click.Context, param: click.Parameter, value: float | None) -> float | None:
    """The limit, if time can pass it: no time is beyond NaN."""
    if value is not None and math.isnan(value):
        raise click.BadParameter(f"{value} is no number of seconds", ctx, param)
    return value


@click.command("batch")
@click.argument("sources", nargs=-1, required=True, type=FILE, metavar="MANIFEST|FOLDER|GLOB|SOURCE...")
@click.option("--to", type=FORMS, help="The form that every row gets, but those that say otherwise.")
@click.option(
    "-o", "--output", "folder", type=PATH, required=True, metavar="OUT", help="The folder of all outputs."
)
@scope_option
@providers_option
@require_option
@click.option("--no-onnx", is_flag=True, help="Write no ONNX files, and check nothing.")
@beside_options
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    help="Models side by side on this machine. Default: one for each two cores.",
)
@click.option(
    "--timeout",
    "seconds",
    type=click.FloatRange(min=0, min_open=True),
    callback=_seconds,
    metavar="SECONDS",
    help="Of each model.",
)
@click.option(
    "--memory", "bytes", type=_Bytes(), metavar="4GiB", help="Resident memory of each model (Linux)."
)
@click.option(
    "--scheduler",
    metavar="tcp://HOST:8786",
    help="Do the models on the workers of a Dask cluster, which sees the same files or is sent them.",
)
@click.option(
    "--send-files",
    is_flag=True,
    help="To workers that do not see the same files: send each model with its row, and get its outputs back.",
)
@click.option(
    "--trust",
    is_flag=True,
    help="A manifest may name code (callables, allow, trust) and weights to be downloaded.",
)
@output_options
def batch_command(
    sources: tuple[str, ...], folder: Path, jobs: int | None, trust: bool, as_json: bool, **given: Any
) -> ExitCode:
    """Rewrite many models, each in a process of its own.

    A manifest (.csv, .jsonl, .yaml) has a row a model: its source, and options of fxhead rewrite by their
    long names. It names code, as a callable, and weights to be downloaded only with --trust. Each model's
    outputs go to OUT/NAME/; OUT/batch.jsonl, batch.csv and batch.html say what became of each. What is done
    with the same inputs, options and versions is not done again. Exit code 1 where a row is not done, or its
    verdict is less than what --require says.
    """

    def job() -> Outcome:
        from fxhead.batch.rows import RowOption, read_rows
        from fxhead.batch.run import BatchOptions, run_batch

        known = {
            text.removeprefix("--").replace("-", "_"): RowOption(text=text, is_flag=parameter.is_flag)
            for parameter in rewrite_command.params
            if isinstance(parameter, click.Option) and parameter.name not in _THE_BATCH_S_OWN
            for text in parameter.opts
            if text.startswith("--")
        }
        common = {name: given.pop(name) for name in _OF_EVERY_ROW}
        rows = read_rows(sources, common, known, trust=trust, out=folder)
        options = BatchOptions(
            rows=rows, folder=folder, jobs=jobs or max(1, (os.cpu_count() or 1) // 2), **given
        )
        return run_batch(options, render.TerminalProgress())

    return finish(job, as_json=as_json)
