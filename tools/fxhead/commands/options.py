"""Options that more than one command takes, and how they are read."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

_Command = TypeVar("_Command", bound=Callable[..., Any])
_LONGEST_NAME_BYTES, _LONGEST_PATH_BYTES = 255, 3_800
"""No file system has longer names; Linux has paths of 4,095, of which those of our own take a part."""


class FilePath(click.Path):
    """A name that a shell completes like a file's; whether it is one is asked later."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The value, if a file can be called that."""
        text = os.fsdecode(value)
        if "\0" in text:
            self.fail("a name of a file has no null byte", param, ctx)
        if any(len(os.fsencode(part)) > _LONGEST_NAME_BYTES for part in text.split("/")):
            self.fail(f"a name of a file has at most {_LONGEST_NAME_BYTES} bytes", param, ctx)
        if len(os.fsencode(os.path.abspath(text))) > _LONGEST_PATH_BYTES:
            self.fail(f"a path has at most {_LONGEST_PATH_BYTES:,} bytes", param, ctx)
        return super().convert(value, param, ctx)


FILE = FilePath(readable=False)
PATH = FilePath(readable=False, path_type=Path)


def _seed(ctx: click.Context, param: click.Parameter, value: int) -> int:
    """The seed, if torch takes it: the help of each command need not name that range."""
    if not -(2**63) <= value < 2**64:
        raise click.BadParameter("a seed lies between -2**63 and 2**64 - 1", ctx, param)
    return value


scope_option = click.option(
    "--scope",
    type=click.Choice(["head", "pooled", "all", "unfolded"]),
    default="head",
    help="head: what leads from the pool to the output; pooled: also squeeze-excite and other side branches; "
    "all: also every Linear and 1×1 convolution on whole maps and tokens; unfolded: to conv, only what --to "
    "unfold wrote, or what is written like it.",
)
providers_option = click.option(
    "--providers",
    metavar="cpu,cuda",
    help="Where ONNX Runtime checks. Default: every one available of cpu and cuda.",
)


trace_option = click.option(
    "--trace",
    "way",
    type=click.Choice(["auto", "symbolic", "export"]),
    default="auto",
    help="How a module becomes a graph: torch.fx, torch.export, or the second where the first cannot.",
)
require_option = click.option(
    "--require",
    type=click.Choice(["agrees", "proved"]),
    default="agrees",
    help="The least verdict with which the command exits with 0.",
)


def beside_options(command: _Command) -> _Command:
    """Options of every command that writes certificates."""
    command = click.option(
        "--attest", is_flag=True, help="Also write an in-toto statement of the files, to be signed."
    )(command)
    return click.option("--html", is_flag=True, help="Also write the result as a page: one file.")(command)


FORMS = click.Choice(["conv", "linear", "dense", "fcn", "unfold"])


def split(providers: str | None) -> tuple[str, ...] | None:
    """The names in ``--providers``, each once, or None where the option was not given."""
    if providers is None:
        return None
    return tuple(dict.fromkeys(name.strip().lower() for name in providers.split(",")))


def output_options(command: _Command) -> _Command:
    """Options of every command; ``--debug`` is for what shows errors, and is not given to the command."""
    command = click.option(
        "--debug", is_flag=True, expose_value=False, help="Show a traceback with an error."
    )(command)
    return click.option("--json", "as_json", is_flag=True, help="Write one JSON document to stdout.")(command)


def source_options(command: _Command) -> _Command:
    """Options of every command that reads a model."""
    for option in reversed(
        (
            click.option(
                "--input-shape",
                "input_shapes",
                multiple=True,
                metavar="1x3x224x224",
                help="Shape of the input, batch first; once for each input. "
                "Default: from the model's metadata, else its first layer.",
            ),
            click.option(
                "--weights",
                type=FILE,
                metavar="NAME|FILE",
                help="torchvision's weights by name (DEFAULT, …), or a state dict to load. "
                "Default: freshly initialised weights.",
            ),
            click.option("--seed", default=0, callback=_seed, help="Seeds fresh weights and inputs."),
            click.option(
                "--arch",
                metavar="NAME",
                help="Builds the model of a state dict or checkpoint: torchvision:NAME (or NAME), "
                "timm:NAME or package.module:callable.",
            ),
            click.option("--ema", is_flag=True, help="Take a checkpoint's averaged weights."),
            click.option(
                "--prefix",
                metavar="model.",
                help="Stands before every name in a file of weights; is removed.",
            ),
            click.option(
                "--allow",
                multiple=True,
                metavar="pkg.Class",
                help="Let a pickled module have this class of yours, or a package's own; may be given more "
                "than once.",
            ),
            click.option("--trust", is_flag=True, help="Unpickle the file as it is: runs any code in it."),
            output_options,
        )
    ):
        command = option(command)
    return command


def sources_given(given: dict[str, Any]) -> dict[str, Any]:
    """What ``source_options`` gave, taken from a command's arguments: shapes of inputs, and how to load."""
    from fxhead.inputs.shapes import parse_shape
    from fxhead.loading.load import Loading

    loading = {field.name: given.pop(field.name) for field in dataclasses.fields(Loading)}
    shapes = tuple(parse_shape(text) for text in given.pop("input_shapes"))
    return {"input_shapes": shapes, "loading": Loading(**loading)}


def images_given(given: dict[str, Any]) -> dict[str, Any]:
    """How images are prepared, taken from a command's arguments."""
    from fxhead.inputs.options import parse_numbers, parse_size

    size, mean, std = (given.pop(name) for name in ("size", "mean", "std"))
    return {
        "size": None if size is None else parse_size(size),
        "mean": () if mean is None else parse_numbers(mean, "--mean"),
        "std": () if std is None else parse_numbers(std, "--std"),
    }
