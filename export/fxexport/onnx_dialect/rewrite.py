"""``rewrite`` and ``find_sites`` for ONNX models: opened for the passes, closed into one of the same kind.

What a file was before a rewrite is kept in it, so that the way back gives that file byte for byte, and the
way to a third form starts from it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir

from fxexport.onnx_dialect.broken import BrokenGraph, checked
from fxexport.onnx_dialect.close import close
from fxexport.onnx_dialect.content import Content
from fxexport.onnx_dialect.external import can_move, locations, mapped
from fxexport.onnx_dialect.open import OpenOnnx
from fxexport.onnx_dialect.pieces import Piece, size_of, written
from fxexport.onnx_dialect.record import Shapes, record_of, with_record
from fxexport.onnx_graph.wire import Buffer
from fxexport.onnx_node import BrokenAttribute
from fxpasses.api import RewriteResult, form_named, report_of, scope_named, sites_of
from fxpasses.change import carry_out
from fxpasses.errors import FileError, FxHeadError, InputError, InternalError, brief, first_line
from fxpasses.plan import WeightPlan
from fxpasses.report import Form, Rewrite, RewriteReport, Scope, Sites, TraceInfo
from fxpasses.survey import Survey
from fxpasses.wall.clock import require_room


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rewritten:
    """A file in another form.

    Attributes:
        source: the file that the pieces are of.
        files: the other files that it reads weights from: as it names them, and as the old file does.
    """

    source: Buffer
    pieces: list[Piece]
    files: Mapping[str, str]
    report: RewriteReport
    plan: WeightPlan

    def data(self) -> bytes:
        """The new file's bytes."""
        found = io.BytesIO()  # joined at once, they would be in memory twice
        found.writelines(written(self.pieces, memoryview(self.source)))
        return found.getvalue()


def rewrite_onnx(model: Any, to: str, scope: str = "head", input_shapes: Shapes = ()) -> RewriteResult[Any]:
    """An ONNX model with its head in another form; see ``fxpasses.rewrite``.

    Args:
        model: an ``onnx.ModelProto``, an ``onnx_ir.Model``, or the path of a file.
        to: ``"conv"``, ``"linear"``, ``"dense"`` or ``"fcn"``.
        scope: ``"head"``, ``"pooled"`` or ``"all"``.
        input_shapes: the shape of each input, where the model leaves extents open.

    Returns:
        The result, with a model of the kind that was given (an ``onnx.ModelProto`` for a path); the one that
        was given stays as it is.

    Raises:
        InputError: an argument is not of the kind that is needed.
        FileError: the file cannot be read, or is damaged.
    """
    form = form_named(to)
    changed = rewrite_content(_content(model), form, scope_named(scope, form), input_shapes)
    require_room(2 * size_of(changed.pieces))  # as bytes, and as what is read of them
    proto = onnx.ModelProto.FromString(changed.data())
    module: Any = ir.from_proto(proto) if isinstance(model, ir.Model) else proto
    return RewriteResult(module=module, report=changed.report, plan=changed.plan)


def find_onnx_sites(
    model: Any, scope: str = "head", to: str | None = None, input_shapes: Shapes = ()
) -> Sites:
    """Every site of an ONNX model, and every miss; see ``fxpasses.find_sites`` and ``rewrite_onnx``."""
    form = None if to is None else form_named(to)
    return sites_of_content(_content(model), form, scope_named(scope, form), input_shapes)


def sites_of_content(content: Content, to: Form | None, scope: Scope, input_shapes: Shapes = ()) -> Sites:
    """Every site of a file, and every miss.

    Raises:
        InputError: no ONNX file has the form.
        FileError: the graph contradicts itself.
    """
    _require_spelled(to, scope)
    with explained(content):
        return sites_of(Survey(OpenOnnx(content, input_shapes), scope, lambda: None), to)


def rewrite_content(
    content: Content,
    to: Form,
    scope: Scope,
    input_shapes: Shapes = (),
    data_name: str | None = None,
    *,
    keeps_way_back: bool = True,
) -> Rewritten:
    """A file's content in another form.

    ``data_name`` calls a file of weights beside it, if it has one; None keeps its name. With
    ``keeps_way_back`` the new file holds the way back to the old one.

    Raises:
        InputError: no ONNX file has the form.
        FileError: the graph contradicts itself.
    """
    _require_spelled(to, scope)
    with explained(content):
        record = record_of(content)
        if record is None or record.scope is not scope or record.to is to:
            return _changed(content, to, scope, input_shapes, data_name, keeps_way_back=keeps_way_back)
        before, shapes = record.before, input_shapes or record.input_shapes
        there = _changed(before, record.to, scope, record.input_shapes, None)
        changed = _joined(there, _changed(before, to, scope, shapes, data_name))
        # the files of weights are those of the file that was given
        now = dict(zip(locations(before), locations(content), strict=False))
        files = {new: now.get(old, old) for new, old in changed.files.items()}
        return dataclasses.replace(changed, files=files)


def _changed(
    content: Content,
    to: Form,
    scope: Scope,
    input_shapes: Shapes,
    data_name: str | None,
    *,
    keeps_way_back: bool = True,
) -> Rewritten:
    opened = OpenOnnx(content, input_shapes)
    survey = Survey(opened, scope, lambda: None)
    if to is Form.FCN and not opened.has_native_size() and sites_of(survey, None).sites:
        raise InputError(
            "leaves height and width of its input open, and windows are of one size",
            where=content.name,
            fix="give the size that it was trained for, as in --input-shape 1x3x224x224",
        )
    change = carry_out(survey, to, (), with_map=False)
    report = report_of(change, survey, to)
    if not change.rewrites:
        return Rewritten(
            source=content.data,
            pieces=content.whole(),
            files={name: name for name in locations(content)},
            report=report,
            plan=change.plan,
        )
    renamed = _renamed(content, data_name)
    closed = close(opened, change.plan, to, renamed)
    plan = WeightPlan(
        to=change.plan.to,
        moves=tuple(
            dataclasses.replace(move, name=opened.constants.by_path[move.name]) for move in change.plan.moves
        ),
    )
    rewrites = _named(change.rewrites, closed.copied, opened)
    pieces = closed.pieces
    if keeps_way_back:
        pieces = with_record(content, pieces, to, scope, input_shapes)
    return Rewritten(
        source=content.data,
        pieces=pieces,
        files={renamed.get(name, name): name for name in locations(content)},
        report=dataclasses.replace(
            report, rewrites=rewrites, trace=_noted(report.trace, _held(closed.held_by))
        ),
        plan=plan,
    )


def _noted(trace: TraceInfo, note: str | None) -> TraceInfo:
    return trace if note is None else dataclasses.replace(trace, notes=(*trace.notes, note))


def _held(by: str | None) -> str | None:
    return None if by is None else f"height and width of the input stay what they are: {by}"


def _not_as_it_was(sites: Sequence[str], to: Form) -> str:
    """Why the way back gives another file than the first."""
    several = f" and {len(sites) - 1} more" if len(sites) > 1 else ""
    told = f"{sites[0]!r}{several} had the form {to} already in the file that this one was made from"
    return f"{told}, and changes too: the result is not that file"


def _renamed(content: Content, data_name: str | None) -> dict[str, str]:
    """New names for the other files, by the old ones; none where they cannot all be renamed."""
    if data_name is None or not can_move(content):
        return {}
    places = enumerate(locations(content))
    return {name: data_name if place == 0 else f"{data_name}.{place}" for place, name in places}


def _named(rewrites: Sequence[Rewrite], copied: dict[str, int], opened: OpenOnnx) -> tuple[Rewrite, ...]:
    """The rewrites with the file's names and the bytes that were written in another order, each once."""
    left = dict(copied)
    made = []
    for entry in rewrites:
        weight = opened.constants.by_path.get(entry.site.weight, entry.site.weight)
        site = dataclasses.replace(entry.site, weight=weight)
        made.append(dataclasses.replace(entry, site=site, copied_bytes=left.pop(weight, 0)))
    return tuple(made)


def _joined(there: Rewritten, changed: Rewritten) -> Rewritten:
    """A change of the file that a record gave back, told as one of the file that ``there`` made of it."""
    further = {entry.site.node: entry for entry in changed.report.rewrites}
    rewrites = []
    for entry in there.report.rewrites:
        later = further.pop(entry.site.node, None)
        rewrites.append(
            Rewrite(
                site=dataclasses.replace(entry.site, form=there.report.to),
                to=changed.report.to,
                weight_shape_before=entry.weight_shape_after,
                weight_shape_after=entry.weight_shape_before if later is None else later.weight_shape_after,
                copied_bytes=entry.copied_bytes if later is None else later.copied_bytes,
            )
        )
    report = dataclasses.replace(changed.report, rewrites=(*rewrites, *further.values()))
    if further and changed.report.to in (Form.CONV, Form.LINEAR):
        note = _not_as_it_was([entry.site.name for entry in further.values()], there.report.to)
        report = dataclasses.replace(report, trace=_noted(report.trace, note))
    again = {move.name: move for move in changed.plan.moves}
    moves = [
        move
        for move in there.plan.moves
        if again.pop(move.name, None) is None or there.plan.to is not changed.plan.to
    ]
    return dataclasses.replace(
        changed,
        report=report,
        plan=WeightPlan(to=changed.plan.to, moves=(*moves, *again.values())),
    )


def _require_spelled(to: Form | None, scope: Scope) -> None:
    if to is Form.UNFOLD or scope is Scope.UNFOLDED:
        raise InputError(
            "an ONNX file is not unfolded",
            where="to" if to is Form.UNFOLD else "scope",
            fix="rewrite the model that it was exported from to 'unfold', and export that",
        )


@contextlib.contextmanager
def explained(content: Content) -> Iterator[None]:
    """Within it whatever a file's graph fails with is an error of the file: anybody may have written it.

    Raises:
        FileError: it contradicts itself.
    """
    try:
        yield
    except (FxHeadError, InternalError):
        raise
    except Exception as error:
        told = isinstance(error, BrokenGraph | BrokenAttribute)
        problem = str(error) if told else checked(content.proto) or brief(error)
        what = f"its graph is broken ({problem})"
        raise FileError(what, where=content.name, fix="export it again") from error


def _content(model: Any) -> Content:
    if isinstance(model, (str, os.PathLike)):
        return read_content(Path(model))
    proto = ir.to_proto(model) if isinstance(model, ir.Model) else model
    return _checked(proto.SerializeToString(), "the ONNX model")


def read_content(path: Path) -> Content:
    """The content of a file, mapped.

    Raises:
        FileError: it cannot be read, or is no ONNX file.
    """
    return _checked(mapped(path), str(path), path.parent)


def _checked(data: Buffer, where: str, folder: Path | None = None) -> Content:
    try:
        return Content(data, where, folder)
    except ValueError as error:
        raise FileError(
            f"is no ONNX file, or is damaged ({first_line(error)})",
            where=where,
            fix="export it again",
        ) from error
