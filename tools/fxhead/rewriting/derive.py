"""The other form's ONNX file, made from the first one: a second export would differ in the head alone."""

from __future__ import annotations

from pathlib import Path

from fxexport.onnx_dialect.external import locations, write_pieces
from fxexport.onnx_dialect.rewrite import read_content, rewrite_content
from fxpasses.report import Form, RewriteReport, Scope


def derive(exported: Path, target: Path, report: RewriteReport) -> bool:
    """Writes the file of the form that a model got, from the file of the form that it had.

    Returns:
        Whether exactly the sites of the model changed in its file, too; else nothing is written.
    """
    wanted = {entry.site.weight: entry.weight_shape_after for entry in report.rewrites}
    if report.scope is not Scope.HEAD or not {report.to, *(e.site.form for e in report.rewrites)} <= _FORMS:
        return False
    content = read_content(exported)
    changed = rewrite_content(content, report.to, report.scope, keeps_way_back=False)
    made = {entry.site.weight: entry.weight_shape_after for entry in changed.report.rewrites}
    if made != wanted or changed.report.copied_bytes or locations(content):
        return False
    write_pieces(changed.pieces, changed.source, target)
    return True


_FORMS = {Form.LINEAR, Form.CONV}
