"""The command line: options in, exit code out. Imports torch only inside a command."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from fxhead import __version__, render
from fxhead.results import ExitCode
from fxhead.sources import Source

if TYPE_CHECKING:
    from fxhead.results import Outcome

_Command = TypeVar("_Command", bound=Callable[..., Any])
_REPORT = "this is a bug in fxhead: please report it with the output of the same command under --debug"


def _source_options(command: _Command) -> _Command:
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
                metavar="NAME|FILE",
                help="torchvision's weights by name (DEFAULT, …), or a state dict to load. "
                "Default: freshly initialised weights.",
            ),
            click.option("--seed", default=0, show_default=True, help="Seeds fresh weights and inputs."),
            click.option(
                "--arch",
                metavar="NAME",
                help="Builds the model of a state dict or checkpoint: torchvision:NAME or "
                "package.module:callable.",
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
                help="Let a pickled module have this class of yours; may be given more than once.",
            ),
            click.option("--trust", is_flag=True, help="Unpickle the file as it is: runs any code in it."),
            click.option("--json", "as_json", is_flag=True, help="Write one JSON document to stdout."),
            click.option("--debug", is_flag=True, help="Show a traceback with an error."),
        )
    ):
        command = option(command)
    return command


_scope_option = click.option(
    "--scope",
    type=click.Choice(["head", "pooled"]),
    default="head",
    show_default=True,
    help="head: what leads from the pool to the output; pooled: also squeeze-excite and other side branches.",
)
_providers_option = click.option(
    "--providers",
    metavar="cpu,cuda",
    help="Where ONNX Runtime checks. Default: every one available of cpu and cuda.",
)


_trace_option = click.option(
    "--trace",
    "way",
    type=click.Choice(["auto", "symbolic", "export"]),
    default="auto",
    show_default=True,
    help="How a module becomes a graph: torch.fx, torch.export, or the second where the first cannot.",
)


_FORMS = click.Choice(["conv", "linear", "dense", "fcn"])


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, no_args_is_help=True)
@click.version_option(__version__, message="fxhead %(version)s")
def fxhead() -> None:
    """Rewrite a classifier's head between Linear and 1×1 convolution, and check both forms.

    SOURCE is a file that torch.save or torch.export.save wrote, a state dict or checkpoint with --arch,
    torchvision:NAME, or package.module:callable. No code in a file is run unless you say --trust; a
    callable is code, and is run.

    Exit codes: 0 done; 1 the answer is no (nothing to rewrite, or not the same function);
    2 bad usage or input; 3 internal error; 130 interrupted.
    """


@fxhead.command("rewrite")
@click.argument("source")
@click.option(
    "--to",
    type=_FORMS,
    required=True,
    help="The form that the sites get. dense: before the pool; fcn: on every window of a larger input. "
    "These two write no ONNX files.",
)
@click.option("--with-map", is_flag=True, help="With dense: give the map of scores out beside the logits.")
@click.option(
    "-o",
    "--output",
    "out",
    metavar="OUT",
    help="The file to write (.pt, or .pt2 for an exported program), or a folder; the other files lie "
    "beside it. Default: next to SOURCE.",
)
@_scope_option
@_trace_option
@_providers_option
@click.option("--opset", type=click.IntRange(min=1), help="Opset of the ONNX files.")
@click.option("--no-onnx", is_flag=True, help="Write no ONNX files, and check nothing.")
@click.option("--force", is_flag=True, help="Replace files that exist; never the input.")
@_source_options
def rewrite_command(
    source: str,
    to: str,
    with_map: bool,
    out: str | None,
    scope: str,
    way: str,
    providers: str | None,
    opset: int | None,
    no_onnx: bool,
    force: bool,
    input_shapes: tuple[str, ...],
    as_json: bool,
    debug: bool,
    **loading: Any,
) -> ExitCode:
    """Rewrite the head of SOURCE, export both forms to ONNX, and check that they are the same function.

    Writes MODEL.conv.pt (or .linear.pt), MODEL.linear.onnx, MODEL.conv.onnx, the weight plan and the
    certificate: all of them, or nothing where the check says "broken". What torch.export traced is
    written as MODEL.conv.pt2. The model is put in eval mode.
    """
    from fxhead.load import Loading
    from fxhead.run_rewrite import RewriteOptions, run_rewrite
    from fxhead.shapes import parse_shape
    from fxpasses.report import Form, Scope

    options = RewriteOptions(
        source=Source.parse(source),
        to=Form(to),
        out=out,
        scope=Scope(scope),
        way=way,
        providers=_split(providers),
        input_shapes=tuple(parse_shape(text) for text in input_shapes),
        opset=opset,
        with_onnx=not no_onnx and to in ("conv", "linear"),
        with_map=with_map,
        loading=Loading(**loading),
        force=force,
    )
    return _finish(lambda: run_rewrite(options, render.TerminalProgress()), as_json=as_json)


@fxhead.command("inspect")
@click.argument("source")
@click.option(
    "--to",
    type=_FORMS,
    help="List the sites that have this form or can get it, and why the others cannot. "
    "Default: those that can be linear and conv.",
)
@_scope_option
@_trace_option
@_source_options
def inspect_command(
    source: str,
    to: str | None,
    scope: str,
    way: str,
    input_shapes: tuple[str, ...],
    as_json: bool,
    debug: bool,
    **loading: Any,
) -> ExitCode:
    """List every site of SOURCE that can be rewritten, and every candidate that cannot, with the reason."""
    from fxhead.load import Loading
    from fxhead.run_inspect import run_inspect
    from fxhead.shapes import parse_shape
    from fxpasses.report import Form, Scope

    return _finish(
        lambda: run_inspect(
            Source.parse(source),
            scope=Scope(scope),
            way=way,
            to=Form(to) if to else None,
            input_shapes=tuple(parse_shape(text) for text in input_shapes),
            loading=Loading(**loading),
            progress=render.TerminalProgress(),
        ),
        as_json=as_json,
    )


@fxhead.command("check")
@click.argument("reference", required=False)
@click.argument("candidate", required=False)
@_providers_option
@click.option("--plan", metavar="PLAN.json", help="The weight plan that rewrite wrote.")
@click.option(
    "--inputs",
    metavar="DATA",
    help="Samples to run: an .npz or .npy file, or a folder of images. Default: random ones.",
)
@click.option(
    "--samples",
    type=click.IntRange(1, 1_000_000),
    help="How many random samples to run. Default: 8.",
)
@click.option(
    "--size",
    metavar="CROP|SHORT,CROP",
    help="For images: shorter side after resizing, and the square cut from the centre. "
    "Default: the model's own input, from a shorter side 256/224 as long.",
)
@click.option("--mean", metavar="R,G,B", help="For images: subtracted, of 0 … 1. Default: ImageNet's.")
@click.option("--std", metavar="R,G,B", help="For images: divided by. Default: ImageNet's.")
@click.option("-o", "--output", "out", metavar="CERT.json", help="Also write the certificate to this file.")
@click.option("--force", is_flag=True, help="Replace a certificate that exists.")
@click.option(
    "--replay",
    metavar="CERT.json",
    help="Do again what a certificate says was done, and compare; takes no other models or inputs.",
)
@_source_options
def check_command(
    reference: str | None,
    candidate: str | None,
    providers: str | None,
    plan: str | None,
    inputs: str | None,
    samples: int | None,
    size: str | None,
    mean: str | None,
    std: str | None,
    out: str | None,
    force: bool,
    replay: str | None,
    input_shapes: tuple[str, ...],
    as_json: bool,
    debug: bool,
    **loading: Any,
) -> ExitCode:
    """Check that CANDIDATE is the same function as REFERENCE; either may also be an .onnx file.

    Images are turned upright, resized, cropped, scaled to 0 … 1 and standardised, as torchvision does for
    classification; all samples of --inputs are run, in sorted order.
    """
    if replay is not None:
        _require_alone()
        return _replay(Path(replay), trust=loading["trust"], as_json=as_json)
    for name, value in (("REFERENCE", reference), ("CANDIDATE", candidate)):
        if value is None:
            raise _misuse(f"Missing argument '{name}'")
    from fxhead.data_options import DataOptions, parse_numbers, parse_size
    from fxhead.examine import Question
    from fxhead.load import Loading
    from fxhead.run_check import CheckOptions, run_check
    from fxhead.shapes import parse_shape

    question = Question(
        models=(Source.parse(str(reference)), Source.parse(str(candidate))),
        providers=_split(providers),
        plan=None if plan is None else Path(plan),
        input_shapes=tuple(parse_shape(text) for text in input_shapes),
        loading=Loading(**loading),
        data=DataOptions(
            path=inputs,
            samples=samples,
            size=None if size is None else parse_size(size),
            mean=() if mean is None else parse_numbers(mean, "--mean"),
            std=() if std is None else parse_numbers(std, "--std"),
        ),
    )
    options = CheckOptions(question=question, out=None if out is None else Path(out), force=force)
    return _finish(lambda: run_check(options, render.TerminalProgress()), as_json=as_json)


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
    from fxhead.run_replay import run_replay

    progress = render.TerminalProgress()
    return _finish(lambda: run_replay(path, trust=trust, progress=progress), as_json=as_json)


@fxhead.command("convert-weights")
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option(
    "--plan",
    required=True,
    metavar="PLAN.json",
    type=click.Path(path_type=Path),
    help="The weight plan that rewrite wrote.",
)
@click.option("--reverse", is_flag=True, help="Go the plan's way backwards.")
@click.option(
    "-o",
    "--output",
    "out",
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
    type=click.Path(path_type=Path),
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
@click.option("--json", "as_json", is_flag=True, help="Write one JSON document to stdout.")
@click.option("--debug", is_flag=True, help="Show a traceback with an error.")
def convert_command(
    checkpoint: Path,
    plan: Path,
    reverse: bool,
    out: str | None,
    prefixes: tuple[str, ...],
    optimizer_names: Path | None,
    allowed: tuple[str, ...],
    force: bool,
    as_json: bool,
    debug: bool,
) -> ExitCode:
    """Take a state dict or a whole training checkpoint to the other form, without the model.

    Weights, averaged weights and the optimiser's state are reshaped, everything else is copied as it is,
    byte for byte; nothing in the file is run. CHECKPOINT is what torch.save wrote, or safetensors.
    """
    from fxhead.run_convert import ConvertOptions, run_convert

    options = ConvertOptions(
        checkpoint=checkpoint,
        plan=plan,
        reverse=reverse,
        out=out,
        prefixes=prefixes,
        optimizer_names=optimizer_names,
        allowed=allowed,
        force=force,
    )
    return _finish(lambda: run_convert(options, render.TerminalProgress()), as_json=as_json)


@fxhead.command("study")
@click.option(
    "--data",
    metavar="FOLDER",
    help="Images, one folder a class inside. Default: scikit-learn's digits, which need no download.",
)
@click.option(
    "--image-size",
    type=click.IntRange(8, 512),
    default=32,
    show_default=True,
    help="Edge in pixels to which the images of --data are resized and cropped.",
)
@click.option(
    "--seeds",
    type=click.IntRange(2, 10_000),
    default=50,
    show_default=True,
    help="Runs a head; more can be added to a study later.",
)
@click.option("--epochs", type=click.IntRange(min=1), default=10, show_default=True, help="Of each run.")
@click.option(
    "--optimizer",
    type=click.Choice(["sgd", "adam"]),
    default="sgd",
    show_default=True,
    help="sgd has a momentum of 0.9.",
)
@click.option(
    "--learning-rate",
    type=click.FloatRange(min=0, min_open=True),
    default=0.05,
    show_default=True,
    help="Of the first step; it falls along a cosine to 0.",
)
@click.option(
    "--batch-size", type=click.IntRange(min=2), default=64, show_default=True, help="Images a step."
)
@click.option(
    "--alpha",
    type=click.FloatRange(0, 0.5, min_open=True),
    default=0.01,
    show_default=True,
    help="A p-value below it is systematic; intervals have the confidence 1 - alpha.",
)
@click.option(
    "--margin",
    type=click.FloatRange(min=0, min_open=True),
    default=1.0,
    show_default=True,
    help="Largest difference in accuracy that does not matter, in percentage points.",
)
@click.option(
    "--jobs", type=click.IntRange(min=1), help="Processes that train side by side. Default: one a core."
)
@click.option(
    "-o",
    "--output",
    "out",
    metavar="OUT",
    default="fxhead-study",
    show_default=True,
    help="Folder of the finished runs, study.json and study.png; a study that is there already goes on.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="All seeds follow it.")
@click.option("--json", "as_json", is_flag=True, help="Write one JSON document to stdout.")
@click.option("--debug", is_flag=True, help="Show a traceback with an error.")
def study_command(as_json: bool, debug: bool, **given: Any) -> ExitCode:
    """Train a Linear head and the same head as a 1×1 convolution over many seeds, and compare them fairly.

    Says whether torch fills the two layers alike, whether they train alike from the same weights, and
    whether their accuracies differ by more than the seeds make them: chance, systematic, or too few
    seeds to say. A head that is different, and one that is not, are compared in the same way as controls.
    Needs fxhead[study].
    """

    def job() -> Outcome:
        from fxhead.study.extra import require_extra
        from fxhead.study.settings import study_options

        require_extra()
        from fxhead.study.run_study import run_study

        return run_study(study_options(**given), render.TerminalProgress())

    return _finish(job, as_json=as_json)


def _split(providers: str | None) -> tuple[str, ...] | None:
    if providers is None:
        return None
    return tuple(dict.fromkeys(name.strip().lower() for name in providers.split(",")))


def _finish(job: Callable[[], Outcome], *, as_json: bool) -> ExitCode:
    # what a model prints while it loads or runs is not the result
    with contextlib.redirect_stdout(sys.stderr):
        outcome = job()
    try:
        render.show_outcome(outcome, as_json=as_json)
    except OSError as error:
        from fxpasses.errors import FileError

        what = f"the result cannot be written ({error.strerror or error})"
        raise FileError(what, where="stdout", fix="make room; output files are complete") from error
    return outcome.exit_code


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code; raises nothing."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    as_json, debug = "--json" in arguments, "--debug" in arguments or bool(os.environ.get("FXHEAD_DEBUG"))
    if not debug and not sys.warnoptions:
        # the user can act on our own notes and errors; torch's deprecations are for developers
        warnings.simplefilter("ignore")
    try:
        returned = fxhead.main(arguments, prog_name="fxhead", standalone_mode=False)
        return int(returned or ExitCode.DONE)
    except (KeyboardInterrupt, click.Abort):
        _show("Interrupted", "interrupted", as_json=as_json)
        return ExitCode.INTERRUPTED
    except click.ClickException as error:
        where = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "fxhead"
        what = " ".join(error.format_message().split()).rstrip(".")  # click lists choices on lines
        _show("UsageError", what, where=where, fix=f"see '{where} --help'", as_json=as_json)
        return ExitCode.USAGE
    except Exception as error:  # noqa: BLE001 - the one place where whatever happened becomes a message
        if debug:
            render.show_traceback(traceback.format_exc())
        return _explain(error, as_json=as_json)


def _explain(error: Exception, *, as_json: bool) -> ExitCode:
    # not imported before something failed: it imports torch
    from fxpasses.errors import FxHeadError

    name = type(error).__name__
    if isinstance(error, FxHeadError):
        _show(name, error.what, where=error.where, fix=error.fix, as_json=as_json)
        return ExitCode.USAGE
    _show("InternalError", f"{name}: {error}", fix=_REPORT, as_json=as_json)
    return ExitCode.INTERNAL


def _show(kind: str, what: str, *, where: str | None = None, fix: str | None = None, as_json: bool) -> None:
    # a file's own names may be among these, and a terminal obeys what it is sent
    head = f"{where}: {what}" if where else what
    text = "".join(map(_visible, f"{head}; {fix}" if fix else head))
    if kind != "Interrupted":
        text = f"error: {text}"
    render.show_error({"type": kind, "what": what, "where": where, "fix": fix}, text, as_json=as_json)


def _visible(char: str) -> str:
    return char if char.isprintable() else char.encode("unicode_escape").decode()


def run() -> NoReturn:
    """Entry point of the ``fxhead`` command."""
    # so that temporary files are removed then, too
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    sys.exit(main())
