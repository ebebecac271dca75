"""Situations that only ``torch.export`` makes: operators, regions and shapes that no module zoo has.

Each names what must come of it in both ATen dialects: how many sites are rewritten, or the codes of the
misses. A pair says it for the training IR and for the decomposed program apart.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim

from zoo.entry import seeded

Outcome: TypeAlias = int | str


class Situation(nn.Module):
    """A stem, and one function of it with parameters, buffers and modules by name."""

    def __init__(self, call: Callable[[Any, Tensor], Any], parts: dict[str, Any]) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.call = call
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor) -> Any:
        """Whatever ``call`` returns."""
        return self.call(self, self.stem(x))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One situation.

    Attributes:
        name: identifier, also the test's.
        make: builds the model, always the same.
        training: rewrites, or the first miss's code, in the training IR.
        core: the same after run_decompositions().
        to: the form to rewrite to.
        scope: which sites.
        axes: the dynamic axes of the input.
        batches: batch sizes that the program takes.
        options: options of torch.export.
    """

    name: str
    make: Callable[[], nn.Module]
    training: Outcome
    core: Outcome
    to: str = "conv"
    scope: str = "head"
    axes: dict[int, Any] = dataclasses.field(default_factory=lambda: {0: Dim("batch", min=1, max=256)})
    batches: tuple[int, ...] = (1, 2, 5)
    options: dict[str, Any] = dataclasses.field(default_factory=dict)


def case(
    name: str,
    outcome: Outcome | tuple[Outcome, Outcome],
    call: Callable[[Any, Tensor], Any],
    parts: Callable[[], dict[str, Any]],
    **facts: Any,
) -> Case:
    """A case whose model is one function of its parts."""
    training, core = outcome if isinstance(outcome, tuple) else (outcome, outcome)
    make = seeded(lambda: Situation(call, parts()).double().eval())
    return Case(name=name, make=make, training=training, core=core, **facts)


def gap(x: Tensor) -> Tensor:
    return F.adaptive_avg_pool2d(x, 1)


def pooled(x: Tensor) -> Tensor:
    return torch.flatten(gap(x), 1)


def weight(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape))


def linear(inside: int = 6, outside: int = 5) -> Callable[[], dict[str, Any]]:
    return lambda: {"fc": nn.Linear(inside, outside)}


def conv(inside: int = 6, outside: int = 5, **options: Any) -> Callable[[], dict[str, Any]]:
    return lambda: {"fc": nn.Conv2d(inside, outside, options.pop("kernel", 1), **options)}


def matrix(**more: tuple[int, ...]) -> Callable[[], dict[str, Any]]:
    return lambda: {name: weight(*shape) for name, shape in ({"w": (5, 6)} | more).items()}


def constant_weight() -> dict[str, Any]:
    return {"w": torch.randn(5, 6, dtype=torch.float64), "b": weight(5)}


def fixed_buffer() -> dict[str, Any]:
    """A weight in a buffer that no state dict has."""
    holder = nn.Module()
    holder.register_buffer("w", torch.randn(5, 6), persistent=False)
    return {"holder": holder}


def tied() -> dict[str, Any]:
    first, second = nn.Linear(6, 5), nn.Linear(6, 5)
    second.weight = first.weight
    return {"first": first, "second": second}


# --- products -------------------------------------------------------------------------------------

PRODUCTS = (
    case("addmm", 1, lambda m, x: torch.addmm(m.b, pooled(x), m.w.t()), matrix(b=(5,))),
    case(
        "addmm_scaled",
        "MATRIX_PRODUCT",
        lambda m, x: torch.addmm(m.b, pooled(x), m.w.t(), beta=0.5, alpha=2.0),
        matrix(b=(5,)),
    ),
    case(
        "addmm_bias_of_one",
        "MATRIX_PRODUCT",
        lambda m, x: torch.addmm(m.b, pooled(x), m.w.t()),
        matrix(b=(1,)),
    ),
    case(
        "addmm_bias_of_two_axes",
        "MATRIX_PRODUCT",
        lambda m, x: torch.addmm(m.b, pooled(x), m.w.t()),
        matrix(b=(1, 5)),
    ),
    case("addmm_untransposed", "MATRIX_PRODUCT", lambda m, x: pooled(x) @ m.w, matrix(w=(6, 5))),
    case("mm_and_a_sum", 1, lambda m, x: torch.mm(pooled(x), m.w.t()) + m.b, matrix(b=(5,))),
    case("matmul_numpy_transpose", 1, lambda m, x: pooled(x) @ m.w.T, matrix()),
    case("matmul_matrix_transpose", 1, lambda m, x: pooled(x) @ m.w.mT, matrix()),
    case("matmul_permuted_from_the_end", 1, lambda m, x: pooled(x) @ m.w.permute(-1, 0), matrix()),
    case("matmul_of_rows", ("UNFLATTENED", 1), lambda m, x: pooled(x)[:, None] @ m.w.T, matrix()),
    case("einsum", "MATRIX_PRODUCT", lambda m, x: torch.einsum("nc,oc->no", pooled(x), m.w), matrix()),
    case("einsum_of_maps", "MATRIX_PRODUCT", lambda m, x: torch.einsum("nchw,oc->no", gap(x), m.w), matrix()),
    case(
        "baddbmm",
        "MATRIX_PRODUCT",
        lambda m, x: torch.baddbmm(m.b, pooled(x)[:, None], m.w.T[None].expand(x.shape[0], -1, -1))[:, 0],
        matrix(b=(1, 1, 5)),
    ),
)

# --- weights --------------------------------------------------------------------------------------

WEIGHTS = (
    case("constant_weight", 1, lambda m, x: F.linear(pooled(x), m.w, m.b), constant_weight),
    case("weight_outside_the_state_dict", 1, lambda m, x: F.linear(pooled(x), m.holder.w), fixed_buffer),
    case("weight_computed", "COMPUTED_WEIGHT", lambda m, x: F.linear(pooled(x), m.w * 2), matrix()),
    case(
        "bias_computed", "COMPUTED_WEIGHT", lambda m, x: F.linear(pooled(x), m.w, m.b.exp()), matrix(b=(5,))
    ),
    case(
        "bias_made",
        "COMPUTED_WEIGHT",
        lambda m, x: F.linear(pooled(x), m.w, torch.ones(5, dtype=torch.float64)),
        matrix(),
    ),
    case("weight_cut", "COMPUTED_WEIGHT", lambda m, x: F.linear(pooled(x), m.w[:5]), matrix(w=(9, 6))),
    case("tied_under_two_names", 2, lambda m, x: m.first(pooled(x)) + m.second(pooled(x) * 2), tied),
    case(
        "weight_is_an_embedding",
        "TIED_WEIGHT",
        lambda m, x: (m.fc(pooled(x)), F.embedding(torch.arange(3), m.fc.weight)),
        linear(),
    ),
)

# --- views ----------------------------------------------------------------------------------------

VIEWS = (
    case("squeeze_of_axes", 1, lambda m, x: m.fc(gap(x).squeeze((-1, -2))), linear()),
    case("mean_from_the_end", 1, lambda m, x: m.fc(x.mean((-1, -2), keepdim=True).flatten(1)), linear()),
    case("mean_of_both_signs", 1, lambda m, x: m.fc(x.mean((2, -1))), linear()),
    case("mean_of_flat_positions", 1, lambda m, x: m.fc(x.flatten(2).mean(-1)), linear()),
    case("mean_in_a_dtype", 1, lambda m, x: m.fc(x.mean((2, 3), dtype=torch.float64)), linear()),
    case("sum_over_sizes", 1, lambda m, x: m.fc(x.sum((2, 3)) / (x.shape[2] * x.shape[3])), linear()),
    case(
        "pool_with_a_divisor",
        1,
        lambda m, x: m.fc(F.avg_pool2d(x, 8, divisor_override=3).flatten(1)),
        linear(),
    ),
    case("pool_uneven", 1, lambda m, x: m.fc(F.adaptive_avg_pool2d(x, 3).flatten(1)), linear(54)),
    case("pool_of_powers", 1, lambda m, x: m.fc(F.lp_pool2d(x, 2, 8).flatten(1)), linear()),
    case(
        "strided_view",
        1,
        lambda m, x: m.fc(torch.as_strided(gap(x).contiguous(), (x.shape[0], 6), (6, 1))),
        linear(),
    ),
    case("unsafe_view", 1, lambda m, x: m.fc(torch.ops.aten._unsafe_view(gap(x), [x.shape[0], 6])), linear()),
    case(
        "clone_channels_last",
        1,
        lambda m, x: m.fc(
            F.adaptive_avg_pool2d(x, 2).contiguous(memory_format=torch.channels_last).flatten(1)
        ),
        linear(24),
    ),
    case("features_cut", 1, lambda m, x: m.fc(pooled(x)[:, :3]), linear(3)),
    case("features_split", 2, lambda m, x: [m.fc(part) for part in pooled(x).split(3, 1)], linear(3)),
    case("expanded_to_a_grid", 1, lambda m, x: m.fc(gap(x).expand(-1, -1, 2, 2).flatten(1)), linear(24)),
    case("one_class_squeezed", 1, lambda m, x: m.fc(pooled(x)).squeeze(-1), linear(6, 1)),
    case(
        "one_class_of_a_convolution_squeezed",
        1,
        lambda m, x: m.fc(gap(x)).squeeze(3).squeeze(2).squeeze(1),
        conv(6, 1),
        to="linear",
    ),
    case(
        "classes_of_a_convolution_squeezed",
        1,
        lambda m, x: m.fc(gap(x)).squeeze((1, 2, 3)),
        conv(),
        to="linear",
    ),
    case("same_padding_of_one", 1, lambda m, x: m.fc(gap(x)).flatten(1), conv(padding="same"), to="linear"),
    case(
        "sizes_of_the_logits",
        1,
        lambda m, x: (lambda y: (y.flatten(1), torch.zeros(y.shape[0], y.shape[2])))(m.fc(gap(x))),
        conv(),
        to="linear",
    ),
    case("logits_transposed", 1, lambda m, x: m.fc(gap(x)).flatten(1).t(), conv(), to="linear"),
)

# --- writing in place -----------------------------------------------------------------------------


def writes_a_shared_map(m: Any, x: Tensor) -> Any:
    shared = gap(x)
    shared.flatten(1).relu_()
    return m.fc(shared.flatten(1)), shared


def writes_what_was_read(m: Any, x: Tensor) -> Any:
    features = pooled(x)
    logits = m.fc(features)
    features.mul_(2)
    return logits, features


def writes_the_logits(m: Any, x: Tensor) -> Any:
    logits = m.fc(pooled(x))
    logits += 1
    return logits


IN_PLACE = (
    case("writes_a_shared_map", ("IN_PLACE_ALIAS", 1), writes_a_shared_map, linear()),
    case("writes_what_was_read", ("IN_PLACE_ALIAS", 1), writes_what_was_read, linear()),
    case("writes_the_logits", 1, writes_the_logits, linear()),
    case("relu_in_place", 1, lambda m, x: m.fc(gap(x).relu_().flatten(1)), linear()),
)

# --- regions --------------------------------------------------------------------------------------


def in_no_grad(m: Any, x: Tensor) -> Any:
    with torch.no_grad():
        return m.fc(pooled(x))


def behind_no_grad(m: Any, x: Tensor) -> Any:
    with torch.no_grad():
        x = x * 2
    return m.fc(pooled(x))


def pooled_in_no_grad(m: Any, x: Tensor) -> Any:
    with torch.no_grad():
        x = pooled(x)
    return m.fc(x)


def behind_cond(m: Any, x: Tensor) -> Any:
    return m.fc(pooled(torch.cond(x.sum() > 0, lambda y: y * 2, lambda y: y - 1, (x,))))


def in_cond(m: Any, x: Tensor) -> Any:
    return torch.cond(x.sum() > 0, lambda y: m.fc(y), lambda y: m.fc(y) * 2, (pooled(x),))


REGIONS = (
    case("in_no_grad", ("SUBGRAPH", 1), in_no_grad, linear()),
    case("pooled_in_no_grad", ("SUBGRAPH", 1), pooled_in_no_grad, linear()),
    case("behind_no_grad", 1, behind_no_grad, linear()),
    case("behind_cond", 1, behind_cond, linear()),
    case("in_cond", "SUBGRAPH", in_cond, linear()),
)

# --- shapes and ways to export --------------------------------------------------------------------


def plain(m: Any, x: Tensor) -> Tensor:
    return m.fc(pooled(x))


_SIDES = {0: Dim("batch", min=1, max=256), 2: Dim("height", min=4, max=64), 3: Dim.AUTO}

SHAPES = (
    case("strict", 1, plain, linear(), options={"strict": True}),
    case("height_and_width", 1, lambda m, x: m.fc(x.mean((2, 3))), linear(), axes=_SIDES),
    case(
        "height_and_width_of_a_convolution",
        1,
        lambda m, x: m.fc(gap(x)).flatten(1),
        conv(),
        axes=_SIDES,
        to="linear",
    ),
    case("height_alone", 1, plain, linear(), axes={2: Dim("height", min=4, max=64)}, batches=(4,)),
    case("batch_found_out", 1, plain, linear(), axes={0: Dim.AUTO}, batches=(2, 7)),
    case("batch_of_three_to_seven", 1, plain, linear(), axes={0: Dim("n", min=3, max=7)}, batches=(3, 7)),
    case("even_batches", 1, plain, linear(), axes={0: 2 * Dim("half", min=1, max=9)}, batches=(2, 6)),
    case("static", 1, plain, linear(), axes={}, batches=(4,)),
    case("static_squeeze", 1, lambda m, x: m.fc(gap(x).squeeze()), linear(), axes={}, batches=(4,)),
    case(
        "static_batch_merged",
        "BATCH_FLATTENED",
        lambda m, x: m.fc(gap(x).view(1, -1)),
        linear(24),
        axes={},
        batches=(4,),
    ),
    case(
        "mean_of_the_batch",
        "NOT_POOLED",
        lambda m, x: m.fc(x.mean((0, 2, 3))),
        linear(),
        axes={},
        batches=(4,),
    ),
    case("one_sample", "NOT_POOLED", lambda m, x: m.fc(x[0].mean((1, 2))), linear(), axes={}, batches=(4,)),
)

CASES = (*PRODUCTS, *WEIGHTS, *VIEWS, *IN_PLACE, *REGIONS, *SHAPES)
