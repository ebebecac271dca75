"""What an average over positions commutes with: pointwise affine maps.

``f(avgpool(u)) = avgpool(f(u))`` where ``f`` is affine and the same at every position, because the weights
of an average add up to one: a 1×1 convolution, a batch norm with fixed statistics, a dropout that is
switched off, a sum of such values, a product with a number.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence

from torch.fx import Node

from fxpasses.engine.refusals import altered_problem
from fxpasses.heads.cancel import is_over_tokens
from fxpasses.heads.region import PooledValue, constant_shape, lies_along_channels
from fxpasses.miss_codes import MissCode
from fxpasses.report import Problem
from fxpasses.vocabulary.ops import POOLS, VIEWS, Affine, Elementwise, FeatureNorm, Reduce, Role, WindowPool
from fxpasses.vocabulary.vocabulary import Vocabulary

_FCN = "try the fully convolutional form, 'fcn'"


def problem_of(
    value: PooledValue, values: Mapping[Node, PooledValue], sites: Container[Node], vocabulary: Vocabulary
) -> Problem | None:
    """Why a pooled value is no pointwise affine function of the pooled values that it reads, or None.

    ``sites`` are the affine ops that are pointwise convolutions, or can become some.
    """
    node, op = value.node, value.op
    if isinstance(op, VIEWS):
        return None
    if isinstance(op, Affine):
        return None if node in sites else _nonlinear(node, "is no site")
    if isinstance(op, POOLS):
        return _nonlinear(node, "is a pool itself")
    if not isinstance(op, Elementwise | FeatureNorm) or op.role is Role.OTHER:
        return altered_problem(node, vocabulary) or _nonlinear(node, "is not affine")
    if op.trains:
        what = (
            "a dropout draws another mask" if op.role is Role.DROPOUT else "a batch norm has other statistics"
        )
        return Problem(
            MissCode.TRAIN_MODE,
            f"{node.name!r} is in train mode, where {what} before the pool than after it",
            "call model.eval() first",
        )
    if isinstance(op, FeatureNorm) or op.role is Role.BATCH_NORM:
        return None
    if op.inplace and op.role is not Role.DROPOUT:
        return Problem(
            MissCode.IN_PLACE_ALIAS,
            f"in-place {node.name!r} would write to the map before the pool",
            "make that op out of place",
        )
    pooled = [source for source in op.sources if source in values]
    constants = [source for source in op.sources if source not in values]
    is_one = len(pooled) == 1 and (op.role is Role.PRODUCT or op.sources[0] in values)
    if op.role is not Role.SUM and not is_one:
        return _nonlinear(node, "multiplies pooled values")
    axes = () if value.layout is None else value.layout.axes
    if not all(lies_along_channels(constant_shape(source, vocabulary), axes) for source in constants):
        return Problem(
            MissCode.NOT_A_MAP,
            f"{node.name!r} combines it with values that do not lie along its channels",
            "fold them into the Linear's weight and bias",
        )
    return None


def pool_problem(pools: Sequence[Node], values: Mapping[Node, PooledValue]) -> Problem | None:
    """Why a head's pools are no average over all positions of a map, or None."""
    problem = next(filter(None, (kind_problem(node, values) for node in pools)), None)
    if problem is not None:
        return problem
    layout = values[pools[-1]].layout
    if layout is None or None in layout.extents:
        return Problem(
            MissCode.UNKNOWN_EXTENT, "nothing in the graph says whether its pool leaves one position",
            "pass example_inputs (--input-shape)",
        )  # fmt: skip
    if not layout.is_point:
        grid = "x".join(map(str, layout.extents))
        reason = f"its pool {pools[-1].name!r} keeps a grid of {grid} positions, each with weights of its own"
        return Problem(MissCode.POOL_GRID, reason, _FCN)
    return None


def kind_problem(node: Node, values: Mapping[Node, PooledValue]) -> Problem | None:
    """Why a pool is no plain average of a map, or None."""
    op = values[node].op if node in values else None
    if isinstance(op, POOLS) and not op.average:
        what = "takes a maximum or a sum, not an average"
    elif isinstance(op, WindowPool) and not (op.plain or op.covers):
        what = "pads its windows or divides by another number than their size"
    elif isinstance(op, Reduce) and op.source not in values and is_over_tokens(op):
        what = "averages tokens [N, *k, C], which no convolution reads"
    else:
        return None
    return Problem(MissCode.POOL_KIND, f"its pool {node.name!r} {what}", "pool with nn.AdaptiveAvgPool2d(1)")


def _nonlinear(node: Node, what: str) -> Problem:
    return Problem(
        MissCode.NONLINEAR,
        f"{node.name!r} stands between the pool and the logits and {what}, so the pool cannot pass it",
        _FCN,
    )
