"""Frozen results: what was found, what was rewritten, what was not and why.

No tensors and no graph nodes inside: a report can be kept, compared, and turned into JSON.
"""

from __future__ import annotations

import dataclasses
import enum
import math
from pathlib import Path
from typing import Any, ClassVar

from fxpasses.miss_codes import MissCode


class Form(enum.StrEnum):
    """How a site is written."""

    LINEAR = "linear"
    CONV = "conv"
    DENSE = "dense"
    FCN = "fcn"
    UNFOLD = "unfold"

    @property
    def weights(self) -> Form:
        """The form whose weight shapes this form has: a convolution's, unless it is a Linear."""
        return Form.LINEAR if self in (Form.LINEAR, Form.UNFOLD) else Form.CONV


class Scope(enum.StrEnum):
    """Which sites a rewrite considers; each scope but the last contains the one before it.

    ``UNFOLDED`` are the convolutions that are or can be written as unfold and matrix product, wherever they
    stand. To ``unfold`` takes these in every scope, and to ``conv`` takes those back that are unfolded.
    """

    HEAD = "head"
    POOLED = "pooled"
    ALL = "all"
    UNFOLDED = "unfolded"


class JsonRecord:
    """A record that JSON holds by its fields.

    ``told`` names properties that are written too, ``unwritten`` fields that are not.
    """

    __slots__ = ()
    told: ClassVar[tuple[str, ...]] = ()
    unwritten: ClassVar[tuple[str, ...]] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        names = (*(field.name for field in dataclasses.fields(self)), *self.told)  # type: ignore[arg-type]
        return {name: plain(getattr(self, name)) for name in names if name not in self.unwritten}


def plain(value: Any) -> Any:
    """A value as strict JSON has it: records by their fields, NaN and infinities as texts."""
    if hasattr(value, "to_dict"):
        return value.to_dict()
    if dataclasses.is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return str(value) if isinstance(value, Path | enum.StrEnum) else value


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Site(JsonRecord):
    """One affine op that can change form.

    Attributes:
        name: module path of the site (``"classifier.6"``), or of the parameter's owner.
        node: name of its node in the graph.
        form: the form that it has now.
        scope: the narrowest scope that contains it.
        weight: state-dict name of the weight.
        bias: state-dict name of the bias, or None.
        in_features: features read per sample, ``C * prod(kernel_size)``.
        out_features: features written per sample.
        kernel_size: kernel of the convolution form, one extent per spatial axis.
        source: ``"file.py:line"`` of the call, or None where tracing did not record it.
    """

    told = ("now",)

    name: str
    node: str
    form: Form
    scope: Scope
    weight: str
    bias: str | None
    in_features: int
    out_features: int
    kernel_size: tuple[int, ...]
    source: str | None

    @property
    def linear(self) -> str:
        """The linear form as PyTorch would print it."""
        tail = "" if self.bias else ", bias=False"
        return f"Linear({self.in_features}, {self.out_features}{tail})"

    @property
    def conv(self) -> str:
        """The convolution form as PyTorch would print it."""
        channels = self.in_features
        for extent in self.kernel_size:
            channels //= extent
        rank = len(self.kernel_size)
        kernel = ", ".join(map(str, self.kernel_size)) + ("," if rank == 1 else "")
        tail = "" if self.bias else ", bias=False"
        return f"Conv{rank}d({channels}, {self.out_features}, kernel_size=({kernel}){tail})"

    @property
    def unfolded(self) -> str:
        """The product of the unfolded patches."""
        return f"unfold({'x'.join(map(str, self.kernel_size))}) + {self.linear}"

    def written(self, form: Form) -> str:
        """The site in ``form``, as PyTorch would print it, and where it stands."""
        if form is Form.LINEAR:
            return self.linear
        if form is Form.UNFOLD:
            return self.unfolded
        places = {Form.DENSE: " before the pool", Form.FCN: " on every window"}
        return self.conv + places.get(form, "")

    @property
    def now(self) -> str:
        """The site as PyTorch would print it."""
        return self.written(self.form)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Miss(JsonRecord):
    """A candidate that was not rewritten, and why.

    Attributes:
        code: stable reason code.
        name: module path of the candidate, or of the parameter's owner.
        node: name of its node in the graph.
        form: the form that it has now.
        source: ``"file.py:line"`` of the call, or None where tracing did not record it.
        reason: what stands in the way, as a clause.
        fix: what would allow the rewrite, as an imperative clause.
    """

    code: MissCode
    name: str
    node: str
    form: Form
    source: str | None
    reason: str
    fix: str

    def __str__(self) -> str:
        where = f"{self.node}, {self.source}" if self.source else self.node
        return f"skipped {self.name!r} ({where}): {self.code}, {self.reason}; {self.fix}"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Rewrite(JsonRecord):
    """One site that was rewritten.

    Attributes:
        site: the site as it was before.
        to: the form that it has after.
        weight_shape_before: shape of the weight before.
        weight_shape_after: shape of the weight after.
        copied_bytes: bytes of weight that had to be copied; 0 where the new weight is a view.
    """

    told = ("before", "after")

    site: Site
    to: Form
    weight_shape_before: tuple[int, ...]
    weight_shape_after: tuple[int, ...]
    copied_bytes: int

    @property
    def before(self) -> str:
        """The site before, as PyTorch would print it."""
        return self.site.now

    @property
    def after(self) -> str:
        """The site after, as PyTorch would print it."""
        return self.site.written(self.to)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TraceInfo(JsonRecord):
    """How the graph was obtained.

    Attributes:
        method: ``"symbolic"`` (torch.fx.symbolic_trace), ``"export"`` (torch.export), or ``"given"`` (a
            GraphModule or a program was given).
        mode: ``"train"`` or ``"eval"``, the model's mode while it was traced; ``"fixed"`` for a program.
        reason: why it was not traced symbolically, where it was not.
        notes: what the trace fixed that the model decides at run time, and what else is not as one might
            think, one sentence each.
    """

    method: str
    mode: str
    reason: str | None = None
    notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SiteMemory(JsonRecord):
    """The unfolded patches of one convolution.

    Attributes:
        name: the site's.
        per_pixel: numbers in the columns for each number of a large map, ``kh·kw / (sh·sw)``.
        map_bytes: bytes of the map that it reads, or None without example inputs.
        columns_bytes: bytes of its unfolded patches, or None without example inputs.
    """

    told = ("factor",)

    name: str
    per_pixel: float
    map_bytes: int | None = None
    columns_bytes: int | None = None

    @property
    def factor(self) -> float:
        """The columns over the map: at its size, or without one of a large map."""
        if not self.map_bytes or self.columns_bytes is None:
            return self.per_pixel
        return self.columns_bytes / self.map_bytes


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Memory(JsonRecord):
    """What unfolding takes, known before anything runs; weights are not counted.

    Attributes:
        sites: each convolution's columns, in graph order.
        input_shapes: the inputs that the bytes are for, or None where only factors are known.
        peak_before_bytes: most bytes of activations alive at once in the graph as it was.
        peak_bytes: the same with every site unfolded; workspace of kernels is not counted.
    """

    sites: tuple[SiteMemory, ...]
    input_shapes: tuple[tuple[int, ...], ...] | None = None
    peak_before_bytes: int | None = None
    peak_bytes: int | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class OutputHead(JsonRecord):
    """An output that is scores of classes: what it is called, and the sites that it comes from."""

    name: str
    sites: tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Sites(JsonRecord):
    """What ``find_sites`` found: sites and misses, in graph order; to ``unfold`` also the memory it takes.

    ``heads`` are the outputs that come from them, in the order in which the model gives them.
    """

    sites: tuple[Site, ...]
    misses: tuple[Miss, ...]
    trace: TraceInfo
    memory: Memory | None = None
    heads: tuple[OutputHead, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RewriteReport(JsonRecord):
    """What a rewrite did: rewritten sites, misses, and how the graph was obtained.

    ``native_size`` is set by the form ``fcn``: the spatial extents of the first input for which the result
    gives one position; it takes none that is smaller. ``memory`` is set by the form ``unfold``.
    """

    told = ("copied_bytes",)

    to: Form
    scope: Scope
    rewrites: tuple[Rewrite, ...]
    misses: tuple[Miss, ...]
    trace: TraceInfo
    native_size: tuple[int, ...] | None = None
    memory: Memory | None = None

    @property
    def copied_bytes(self) -> int:
        """Bytes of weight copied over all rewrites; 0 where every new weight is a view."""
        return sum(rewrite.copied_bytes for rewrite in self.rewrites)


@dataclasses.dataclass(frozen=True, slots=True)
class Problem:
    """Why a value's layout cannot be followed; becomes a miss at the site that reads it."""

    code: MissCode
    reason: str
    fix: str
