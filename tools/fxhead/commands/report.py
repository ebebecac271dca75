"""``fxhead report``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fxhead.commands.finish import finish
from fxhead.commands.options import PATH, output_options
from fxhead.outcome import ExitCode

if TYPE_CHECKING:
    from fxhead.outcome import Outcome


@click.command("report")
@click.argument("certificate", type=PATH, metavar="CERT.json")
@click.option(
    "-o", "--output", "out", type=PATH, metavar="PAGE.html", help="The page. Default: beside the certificate."
)
@click.option("--force", is_flag=True, help="Replace a page that exists.")
@output_options
def report_command(certificate: Path, out: Path | None, force: bool, as_json: bool) -> ExitCode:
    """Show a certificate as a page: one file, for any browser.

    ONNX files that it is about are drawn where they are as they were; nothing is run again, which is what
    check --replay does.
    """

    def job() -> Outcome:
        from fxhead.check.report import run_report

        return run_report(certificate, out or Path(f"{os.path.splitext(certificate)[0]}.html"), force=force)

    return finish(job, as_json=as_json)
