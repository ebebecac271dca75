"""What ``fxhead rewrite`` is asked for."""

from __future__ import annotations

import dataclasses

from fxhead.check.beside import Beside
from fxhead.loading.load import Loading
from fxhead.source import Source
from fxpasses.report import Form, Scope


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RewriteOptions:
    """What ``fxhead rewrite`` was asked for; ``providers`` None takes every one available."""

    source: Source
    to: Form
    out: str | None = None
    scope: Scope = Scope.HEAD
    way: str = "auto"
    providers: tuple[str, ...] | None = None
    input_shapes: tuple[tuple[int, ...], ...] = ()
    opset: int | None = None
    fold_norms: bool = False
    with_onnx: bool = True
    with_map: bool = False
    with_check: bool = True
    link_data: bool = False
    loading: Loading = dataclasses.field(default_factory=Loading)
    force: bool = False
    beside: Beside = dataclasses.field(default_factory=Beside)
    require: str = "agrees"

    @property
    def unchecked(self) -> str:
        """The option by which nothing is checked."""
        return "--no-check" if self.with_onnx else "--no-onnx"
