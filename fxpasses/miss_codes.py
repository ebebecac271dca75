"""Why a candidate was not rewritten: every code with its meaning, a way out, and an example that has it."""

from __future__ import annotations

import enum

# What the examples are written with; ``x`` is a map, [2, 8, 4, 4].
EXAMPLE_PARTS = {
    "pool": "nn.AdaptiveAvgPool2d(1)",
    "fc": "nn.Linear(8, 10)",
    "conv": "nn.Conv2d(8, 10, 1)",
}


class MissCode(enum.StrEnum):
    """Why a candidate was not rewritten; a code is stable, its sentence is not.

    Attributes:
        meaning: what is so, as a clause about the candidate.
        fix: what to do about it, as a clause.
        example: lines of a ``forward``, written with EXAMPLE_PARTS, whose last one has this miss.
        asked: arguments of ``find_sites`` that the miss takes, beside the model.
    """

    meaning: str
    fix: str
    example: str
    asked: str

    def __new__(cls, code: str, meaning: str, fix: str, example: str, asked: str = "") -> MissCode:
        """A code that cannot be had without its explanation."""
        member = str.__new__(cls, code)
        member._value_ = code
        member.meaning, member.fix, member.example, member.asked = meaning, fix, example, asked
        return member

    # what feeds the site
    NOT_POOLED = (
        "NOT_POOLED",
        "no pool collapses what it reads: a class token, a whole map",
        "nothing, or pool to a fixed size first",
        "fc(x.flatten(2).transpose(1, 2)[:, 0])",
    )
    BEFORE_POOL = (
        "BEFORE_POOL",
        "it works on the whole map and the pool comes after it (SqueezeNet)",
        "nothing: the head is its own pool",
        "pool(conv(x).relu()).flatten(1)",
    )
    UNKNOWN_EXTENT = (
        "UNKNOWN_EXTENT",
        "nothing says how large the pooled map is",
        "pass example_inputs (--input-shape)",
        "fc(nn.AvgPool2d(4)(x).flatten(1))",
    )
    UNKNOWN_LAYOUT = (
        "UNKNOWN_LAYOUT",
        "its input's axes cannot be followed back to the pool",
        "pass example_inputs (--input-shape), or write torch.flatten(x, 1)",
        "conv(pool(x).roll(1, 1))",
    )
    UNFLATTENED = (
        "UNFLATTENED",
        "it reads the last axis of a map that was not flattened",
        "flatten the pooled map",
        "fc(pool(x).permute(0, 2, 3, 1))",
    )
    BATCH_FLATTENED = (
        "BATCH_FLATTENED",
        "the flatten merges the batch axis with the features",
        "flatten from axis 1",
        "fc(pool(x).flatten(0))",
    )
    BAKED_BATCH = (
        "BAKED_BATCH",
        "a view fixes the batch size",
        "write view(x.size(0), -1)",
        "fc(pool(x).view(2, -1))",
    )
    AMBIGUOUS_SQUEEZE = (
        "AMBIGUOUS_SQUEEZE",
        "the squeeze also drops the batch axis when N = 1",
        "name the spatial axes",
        "fc(pool(x).squeeze())",
    )
    FLATTEN_ORDER = (
        "FLATTEN_ORDER",
        "the map is flattened in an order that no kernel has",
        "flatten channels first or last",
        "nn.Linear(48, 10)(nn.AdaptiveAvgPool2d((2, 3))(x).transpose(2, 3).flatten(1))",
    )
    SUBGRAPH = (
        "SUBGRAPH",
        "it is in a region that torch.cond, autocast or no_grad calls",
        "move the head out; run_decompositions() writes out the latter two",
        "torch.cond(x.sum() > 0, fc, fc, (pool(x).flatten(1),))",
        'way="export", example_inputs=x',
    )
    OPAQUE_CALL = (
        "OPAQUE_CALL",
        "it is inside of a module or function that the graph calls whole (nn.MultiheadAttention)",
        'trace with way="export" / --trace export',
        "v = x.flatten(2).transpose(1, 2)\nnn.MultiheadAttention(8, 2, batch_first=True)(v, v, v)",
        'scope="all", example_inputs=x',
    )
    IN_PLACE_ALIAS = (
        "IN_PLACE_ALIAS",
        "an in-place op also writes a value that is read elsewhere",
        "write it with inplace=False",
        "v = pool(x)\nfc(v.flatten(1).mul_(2)), v",
    )
    # the op itself
    KERNEL = (
        "KERNEL",
        "the convolution does not cover the pooled map",
        "pool to the kernel's size",
        "conv(nn.AdaptiveAvgPool2d(2)(x)).flatten(1)",
    )
    PADDING = (
        "PADDING",
        "the convolution pads",
        "use one without padding",
        "nn.Conv2d(8, 10, 3, padding=1)(pool(x)).flatten(1)",
    )
    STRIDE = (
        "STRIDE",
        "the 1×1 convolution strides",
        "slice the map first",
        "nn.Conv2d(8, 10, 1, stride=2)(x)",
        'scope="all"',
    )
    DILATION = (
        "DILATION",
        "the convolution is dilated",
        "use a dense kernel",
        "nn.Conv2d(8, 10, 2, dilation=2)(nn.AdaptiveAvgPool2d(3)(x)).flatten(1)",
    )
    GROUPS = (
        "GROUPS",
        "the convolution has groups",
        "nothing: one Linear is groups=1",
        "nn.Conv2d(8, 10, 1, groups=2)(pool(x)).flatten(1)",
    )
    TRANSPOSED = (
        "TRANSPOSED",
        "it is a transposed convolution",
        "write it as a plain one",
        "nn.ConvTranspose2d(8, 10, 1)(pool(x)).flatten(1)",
    )
    RANK = (
        "RANK",
        "pool and convolution have different numbers of axes, or what a Linear reads has no convolution",
        "3 to 5 axes, batch first",
        "fc(x.flatten(2).amax((0, 2)))",
        'scope="all", example_inputs=x',
    )
    # the module and its weights
    SHARED_MODULE = (
        "SHARED_MODULE",
        "its module is also called where it cannot be rewritten",
        "clone the module",
        "fc(pool(x).flatten(1)), fc(x.flatten(2).transpose(1, 2))",
    )
    TIED_WEIGHT = (
        "TIED_WEIGHT",
        "its weight is also read where it cannot be reshaped",
        "clone the parameter",
        "fc(pool(x).flatten(1)) * fc.weight.norm()",
    )
    HOOKED = (
        "HOOKED",
        "hooks are around it, or around what leads from the pool to it",
        "remove the hooks, add them again after",
        "fc.register_forward_hook(print)\nfc(pool(x).flatten(1))",
    )
    PARAMETRIZED = (
        "PARAMETRIZED",
        "its weight is computed: weight_norm, spectral_norm, pruning",
        "remove the parametrization first",
        "nn.utils.parametrizations.weight_norm(fc)(pool(x).flatten(1))",
    )
    SUBCLASS = (
        "SUBCLASS",
        "a subclass, or a module with a forward of its own, may compute something else (LoRA)",
        "merge or replace it first",
        "nn.modules.linear.NonDynamicallyQuantizableLinear(8, 10)(pool(x).flatten(1))",
    )
    QUANTIZED = (
        "QUANTIZED",
        "its weights are packed, or quantised in the graph (pt2e)",
        "rewrite the float model, then quantise",
        "torch.ao.nn.quantized.dynamic.Linear(8, 10)(pool(x).flatten(1))",
    )
    DTYPE = (
        "DTYPE",
        "convolutions do not take this dtype",
        "cast the model",
        "fc.to(torch.float8_e4m3fn)(pool(x).flatten(1))",
    )
    WEIGHT_TYPE = (
        "WEIGHT_TYPE",
        "its weight is a tensor subclass that may not allow views",
        "convert it to a plain parameter",
        "class Tagged(torch.Tensor): ...\n"
        "fc.weight = nn.Parameter(fc.weight.detach().as_subclass(Tagged))\n"
        "fc(pool(x).flatten(1))",
    )
    UNINITIALIZED = (
        "UNINITIALIZED",
        "a lazy module has no weights yet",
        "run one batch first",
        "nn.LazyLinear(10)(pool(x).flatten(1))",
    )
    COMPUTED_WEIGHT = (
        "COMPUTED_WEIGHT",
        "its weight or bias is computed in the graph",
        "store it as a parameter",
        "F.linear(pool(x).flatten(1), F.normalize(fc.weight))",
    )
    MATRIX_PRODUCT = (
        "MATRIX_PRODUCT",
        "it is a matrix product, not a Linear of a parameter",
        "write nn.Linear or F.linear",
        "pool(x).flatten(1) @ fc.weight.T",
    )
    # what keeps it from being dense or fully convolutional
    NONLINEAR = (
        "NONLINEAR",
        "to dense: an op between pool and logits is not affine, so the pool cannot pass it",
        'use to="fcn"',
        "fc(pool(x).flatten(1).relu())",
        'to="dense"',
    )
    TRAIN_MODE = (
        "TRAIN_MODE",
        "to dense: a dropout or batch norm in train mode",
        "call model.eval()",
        "fc(nn.Dropout()(pool(x)).flatten(1))",
        'to="dense"',
    )
    POOL_GRID = (
        "POOL_GRID",
        "to dense: the pool keeps a grid of positions (VGG)",
        'use to="fcn"',
        "nn.Linear(32, 10)(nn.AdaptiveAvgPool2d(2)(x).flatten(1))",
        'to="dense"',
    )
    POOL_KIND = (
        "POOL_KIND",
        "to dense or fcn: the pool is no plain average of a map: a maximum, a sum, tokens, padding",
        "use nn.AdaptiveAvgPool2d(1)",
        "fc(nn.AdaptiveMaxPool2d(1)(x).flatten(1))",
        'to="dense"',
    )
    SIDE_BRANCH = (
        "SIDE_BRANCH",
        "to dense or fcn: a squeeze-excite branch, no head",
        "use the scope head",
        "x * nn.Conv2d(8, 8, 1)(pool(x)).sigmoid()",
        'to="dense", scope="pooled"',
    )
    NATIVE_SIZE = (
        "NATIVE_SIZE",
        "to fcn: nothing says the size that the model was made for",
        "pass example_inputs (--input-shape)",
        "fc(pool(x).flatten(1))",
        'to="fcn"',
    )
    WINDOW = (
        "WINDOW",
        "to fcn: the pool's cells are not alike at the native size",
        "use a size whose map is a multiple of the grid",
        "nn.Linear(72, 10)(nn.AdaptiveAvgPool2d(3)(x).flatten(1))",
        'to="fcn", example_inputs=x',
    )
    NOT_A_MAP = (
        "NOT_A_MAP",
        "an op after the pool has no meaning for a map: another input joins, a vector is added",
        "move it behind the head",
        "fc(pool(x).flatten(1) + nn.Parameter(torch.ones(8)))",
        'to="fcn", example_inputs=x',
    )
