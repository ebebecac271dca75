"""The table of identities: every equation that a derivation may use, with what it holds under.

``statement`` is the equation, ``condition`` what the code that uses it checks. Identities of kind ``BITS``
hold element for element in any arithmetic; those of kind ``REALS`` over the reals, so up to the rounding of
each operator, and for finite values unless ``special`` says that NaN and infinities go the same way.
"""

from __future__ import annotations

import dataclasses
import enum


class Exactness(enum.StrEnum):
    """In which arithmetic an identity holds."""

    BITS = "bits"
    REALS = "reals"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """An equation between two spellings of one function.

    Attributes:
        name: by which derivations name it.
        statement: the equation.
        condition: when it is used; empty for always.
        exactness: in which arithmetic it holds.
        special: whether NaN and infinities go the same way.
    """

    name: str
    statement: str
    condition: str = ""
    exactness: Exactness
    special: bool


def _bits(name: str, statement: str, condition: str = "", *, special: bool = True) -> Identity:
    return Identity(
        name=name, statement=statement, condition=condition, exactness=Exactness.BITS, special=special
    )


def _reals(name: str, statement: str, condition: str = "", *, special: bool = False) -> Identity:
    return Identity(
        name=name, statement=statement, condition=condition, exactness=Exactness.REALS, special=special
    )


_MODERATE = "both factors lie between 2^-40 and 2^40 (2^-10 and 2^10 in 16 bits) or are 0"

_NOT_HALF = "not in half precision, which one order of the operators may leave"

_MERGED = f"no weight is above 2^40; {_NOT_HALF}"
_SEEN = f"no row or column is less than 2^-10 (2^-3 in 16 bits) of what it is a sum of; {_MERGED}"

_COUNTED = "in half precision of no more than 65,504 cells"

TIES = "order-of-equal-cells"
"""Of two equal cells either may be told first: rounding decides it as well."""

IDENTITIES: dict[str, Identity] = {
    identity.name: identity
    for identity in (
        # what moves nothing
        _bits("copy", "copy(x) = x"),
        _bits("cast-to-own-type", "cast(x, T) = x", "x is of type T"),
        _bits(
            "cast-of-wider",
            "cast(cast(x, W), T) = cast(x, T)",
            "W has every number of x's type; T has reals, or is x's type",
        ),
        _bits("dropout-in-evaluation", "dropout(x) = x", "not in training"),
        _bits("nearest-as-repeat", "nearest_2^k(x) = x with each cell 2^k times", "k is a whole number"),
        # by weights of 1 and 0, and 0 times what is infinite is NaN
        _bits("resize-to-own-size", "resize(x) = x", "to the extents that it has", special=False),
        _bits("whole-slice", "x[0:n] = x", "n is the extent"),
        _bits("slice-of-slice", "x[a::s][b::t] = x[a + s·b :: s·t]"),
        _bits(
            "gather-as-transposition",
            "x[0, n, 2n, …, 1, n+1, …] = flatten(unflatten(x, (m, n))ᵀ)",
            "x has m·n cells",
        ),
        _bits(
            "gather-as-view",
            "flatten(x)[n·i + j] = x[i, j]",
            "i and j count through all rows and columns of x, in 64 bits; it has n columns",
        ),
        _bits(
            "gather-of-merged-axes",
            "x[i, j] = flatten(x, (0, 1))[n·i + j]",
            "the indices are stored, and each names a cell; x has n columns",
        ),
        _bits("gather-of-repeated-cells", "x[i] = x", "along what x repeats; each i names a cell"),
        _bits("gather-by-repeated-index", "x[repeat(i)] = repeat(x[i])", "along whole dimensions of i"),
        _bits("slice-of-padding", "pad(x, a, b)[i:j] = x[i-a : j-a]", "a ≤ i, j ≤ a + n; x has n cells"),
        _bits("slice-of-concatenation", "cat(x, y)[a:b] = y[a-n : b-n]", "n is the extent of x, n ≤ a"),
        _bits("concatenation-of-slices", "cat(x[a:b], x[b:c]) = x[a:c]"),
        _bits("concatenation-with-nothing", "cat(x, y) = x", "y has no cell along that dimension"),
        _bits("view-of-view", "reshape(reshape(x, s), t) = reshape(x, t)"),
        _bits("equal-branches", "if(c, x, x) = x"),
        _bits("single-concatenation", "cat([x]) = x"),
        _bits("patches-of-one-cell", "fold(x) = reshape(x, (N, C, *size))", "x has windows of one cell"),
        _bits("pool-of-one-cell", "pool_1(x) = x", "kernel and stride 1, or as many cells as there are"),
        _bits("reduction-of-one-cell", "mean(x) = max(x) = min(x) = sum(x) = x", "over extents of 1"),
        # sums and products
        _bits("sum-commutes", "x + y = y + x"),
        _bits(
            "neutral-integer",
            "x + 0 = x - 0 = x·1 = x, of truth values x and true = x or false = x",
            "of integers and truth values",
        ),
        _reals(
            "sum-order",
            "(x + y) + z = x + (y + z), -(x + y) = -x - y",
            f"of no more than 128 summands; {_NOT_HALF}",
        ),
        _reals(
            "opposite-shifts",
            "(x + b) + (y - b) = x + y",
            "b is constant, and adding it rounds no more than 2^-14 (2^-10 in 16 bits)",
        ),
        _bits("even-function", "f(-x) = f(x)", f"f is |x| or an even power; {_NOT_HALF}"),
        _reals("product-order", "(x·a)·y = (x·y)·a", f"a is constant; {_NOT_HALF}"),
        _reals("product-commutes", "Σ x·y = Σ y·x", special=True),
        _reals("difference", "x - y = x + (-1)·y", special=True),
        _reals("quotient", "x / y = x · y^-1", f"y is constant, or {_NOT_HALF}"),
        _reals("neutral-element", "x·1 = x + 0 = x", "the constant is 1 or 0, up to a fold's rounding"),
        _reals(
            "affine-of-affine",
            "(x·a + b)·c + d = x·(a·c) + (b·c + d)",
            f"{_MODERATE}; adding b·c and d rounds no more than 2^-14 (2^-10 in 16 bits) of their sum, or of "
            "1; in half precision a is no more than 1 or a·c, and b less than 16",
        ),
        _reals(
            "power-of-product",
            "(x·y)^n = x^n · y^n",
            f"n is an integer, no power is above the 4th; no root becomes a whole power; {_NOT_HALF}",
        ),
        _reals("power-of-one-base", "x^m · x^n = x^(m+n)", "m and n are integers of one sign"),
        _reals(
            "factor-out-of-sum",
            "(a·x + b)·y = (x + b/a)·y·a",
            f"a and b are scalars, a is not 0; {_MODERATE}; {_NOT_HALF}",
        ),
        # clamps
        _bits(
            "clamp-of-clamp",
            "clamp(clamp(x, a, b), c, d) = clamp(x, clamp(a, c, d), clamp(b, c, d))",
            "where a bound is left out it is the largest number to some, and infinity to others",
            special=False,
        ),
        _reals(
            "clamp-of-affine",
            "clamp(a·x + b, l, h) = a·clamp(x, (l - b)/a, (h - b)/a) + b",
            "a and b are scalars, a > 0",
            special=True,
        ),
        _bits("extreme-as-clamp", "max(x, c) = clamp(x, c, ∞), min(x, c) = clamp(x, -∞, c)", "c is a scalar"),
        # sites
        _reals("linear-as-sum", "linear(x, W)_o = Σ_k x_k·W_ok", special=True),
        _reals("matmul-as-sum", "(A·B)_mn = Σ_k A_mk·B_kn", special=True),
        _reals(
            "convolution-of-one-cell",
            "conv(x, W)_ohw = Σ_c x_c(hs)(ws)·W_oc",
            "kernel and groups 1, no padding, stride s",
            special=True,
        ),
        _reals(
            "convolution-of-blocks",
            "conv(x, W)_oij = Σ_chw x_c(ki+h)(kj+w)·W_ochw",
            "kernel and stride are k, and divide the map; no padding, groups and dilation 1",
            special=True,
        ),
        _reals(
            "convolution-over-map",
            "conv(x, W)_o = Σ_chw x_chw·W_ochw",
            "the kernel covers the map; no padding, groups and dilation 1",
            special=True,
        ),
        _reals(
            "zeros-as-padding",
            "conv_p(pad_q(x, 0), W) = conv_p+q(x, W), average_pool(pad_q(x, 0)) = average_pool_q(x)",
            "the zeros are at the ends of what the windows move along; the pool counts them, and rounds down",
        ),
        _reals("scale-of-bilinear", "Σ (a·x)·y = a·Σ x·y", f"a is a scalar; {_NOT_HALF}"),
        _reals(
            "scale-of-affine-site",
            "site(x, W)·a = site(x, W·a)",
            f"a and W are constants, a runs over the site's outputs, W was not scaled before; {_MODERATE}",
        ),
        _reals("average-of-sum", "Σ x / n = mean(x)", f"n is the number of cells; {_NOT_HALF}"),
        _reals("average-of-affine", "mean(x·a + b) = mean(x)·a + b", "a and b do not change along the mean"),
        _reals(
            "site-of-patches",
            "Σ_ck W_ock · unfold_k(x)_nckl = flatten(conv(x, W))_nol",
            "W is constant, and differs along no place l",
        ),
        _reals(
            "average-of-site",
            "mean(site(x)) = site(mean(x))",
            "the mean, or pool without padding, runs along what the site neither sums nor makes",
        ),
        # sites as one, where two graphs are not one without
        _reals("site-of-site", "site(site(x, W), V) = site(x, V·W)", f"one is of one cell; {_SEEN}"),
        _reals(
            "site-of-affine",
            "site(x·a + b, W) = site(x, W·a) + site(b, W)",
            f"a and b are constants, adding b rounds no more than 2^-14 (2^-10 in 16 bits); {_MERGED}; where "
            "a convolution has padding there is no b",
        ),
        _reals(
            "sum-of-sites",
            "site(x, W) + site(x, V) = site(x, W + V), x = site(x, 1)",
            f"windows of one stride, the smaller ones with zeros where they have no cell; {_SEEN}",
        ),
        _reals("slice-of-site", "site(x, W)[a:b] = site(x, W[a:b])", "along what the weights make"),
        _reals(
            "concatenation-of-sites",
            "cat(site(x, W), site(x, V)) = site(x, cat(W, V))",
            "along what the weights make",
        ),
        # pools and reductions
        _bits(
            "pool-over-map",
            "pool_k(x) = mean(x) or max(x)",
            "the kernel is the map, or whole rows of it, or no smaller where a mean rounds up; no padding",
        ),
        _bits("pool-to-one-cell", "adaptive_pool(x, 1) = mean(x) or max(x)", "along some axes or all"),
        _bits(
            "largest-of-clamped",
            "max_pool(clamp(x, a, b)) = clamp(max_pool(x), a, b)",
            "each of its windows holds a cell, and it is none over the whole map",
        ),
        _bits(
            "extreme-of-affine",
            "max(x·a + b) = max(x)·a + b, and for an a below zero min(x)·a + b",
            "a and b do not change along the maximum, which is over whole dimensions",
        ),
        _bits(
            "even-adaptive-pool",
            "adaptive_pool(x, n) = pool_k(x), k = extent / n = stride",
            "n divides the extent",
        ),
        # the largest of several is another NaN's neighbour in another order
        _reals("reduction-of-reduction", "mean(mean(x)) = mean(x), sum, max, min too"),
        _reals("sum-of-repeated", "Σ x = n·x", "x repeats n times along the sum", special=True),
        _reals(TIES, "the places of sorted cells are those of any order that sorts them"),
        # definitions
        _reals("batch-norm", "bn(x) = x·(w/√(v + ε)) + (b - m·w/√(v + ε))", "in evaluation, all constant"),
        _reals("normalisation", "norm(x) = (x - mean(x)) · (mean((x - mean(x))²) + ε)^-1/2", _NOT_HALF),
        _reals("variance", "var(x) = mean((x - mean(x))²)·n / (n - c)", f"n is known; {_NOT_HALF}"),
        _reals("euclidean-norm", "‖x‖ = (Σ x²)^1/2", _NOT_HALF),
        _reals("silu", "silu(x) = x·sigmoid(x)"),
        _reals("hard-sigmoid", "hard_sigmoid(x) = clamp(a·x + b, 0, 1); torch's: a = 1/6, b = 1/2"),
        _reals("hard-swish", "hard_swish(x) = x·hard_sigmoid(x)"),
        _reals("gelu", "gelu(x) = x·(1 + erf(x/√2))/2, or x·(1 + tanh(√(2/π)·(x + 0.044715·x³)))/2"),
        _reals("tanh", "tanh(x) = 2·sigmoid(2·x) - 1", _NOT_HALF, special=True),
        _reals("extreme-as-slope", "max(x, s·x) = leaky_relu(x), |x| for s = -1", f"0 < s < 1; {_NOT_HALF}"),
        _reals("masked-by-sign", "(1 where x > 0, else 0)·x = max(x, 0)", _NOT_HALF),
        _reals("one-more", "expm1(x) = exp(x) - 1, log1p(x) = log(1 + x)", "not in half precision"),
        _reals("mish", "mish(x) = x·tanh(softplus(x))"),
        _reals("softmax", "softmax(x) = exp(x - max(x)) / Σ exp(x - max(x))", _COUNTED, special=True),
        _reals(
            "softmax-of-shifted-keys",
            "softmax(q·(k + b)ᵀ·s + m) = softmax(q·kᵀ·s + m)",
            "b and s are one for all keys, and adding b rounds no more than 2^-14 (2^-10 in 16 bits); "
            f"{_NOT_HALF}",
        ),
        _reals("log-softmax", "log_softmax(x) = x - max(x) - log Σ exp(x - max(x))", _COUNTED),
        _reals("log-of-softmax", "log(softmax(x)) = log_softmax(x)", _COUNTED),
        _reals("exp-of-log-softmax", "exp(log_softmax(x)) = softmax(x)", _COUNTED),
        _reals("log-sum-exp", "log_sum_exp(x) = max(x) + log Σ exp(x - max(x))", _COUNTED),
        _reals(
            "softplus-of-large",
            "(x where x > t, else softplus(x)) = softplus(x)",
            "t is 20 or more, and the type has 24 bits or fewer: log(1 + exp(-20)) is less than they tell",
            special=True,
        ),
        _reals("logistic", "y / (1 + exp(x)) = y · sigmoid(-x)", _NOT_HALF),
        _reals("log-of-sum", "logaddexp(a, b) = log(exp(a) + exp(b))", "not in 16 bits"),
        _reals("log-sigmoid", "log(sigmoid(x)) = -softplus(-x)", _NOT_HALF),
        _reals("softplus", "log(1 + exp(x)) = softplus(x)", _NOT_HALF),
        _reals(
            "choice-of-slope",
            "(x where x > 0, else s·x) = leaky_relu(x), |x| for s = -1; else s·(exp(x) - 1): elu(x)",
            _NOT_HALF,
        ),
        _bits(
            "choice-of-extreme",
            "(a where a > b, else b) = max(a, b)",
            "or the smaller, or with equal ones: all but zeros of another sign, and what is no number",
            special=False,
        ),
        _bits("unequal", "x ≠ y = not (x = y)"),
        _reals("softmax-without-largest", "exp(x) / Σ exp(x) = softmax(x)", _NOT_HALF),
        _bits(
            "softmax-of-something",
            "(c where softmax(x) is no number, else softmax(x)) = softmax(x)",
            "some x is more than minus infinity",
            special=False,
        ),
        _bits(
            "masked-by-lowest",
            "softmax(x + c) = softmax(x + d)",
            "where c and d differ both are below half of the lowest number, which they are not in all cells; "
            "|x| is less than a quarter of it; float32 and bfloat16",
            special=False,
        ),
        _reals("sinc", "sinc(x) = (1 where x is 0, else sin(π·x) / (π·x))", _NOT_HALF),
        _reals("attention", "sdpa(q, k, v) = softmax(q·kᵀ·s + mask)·v, s = 1/√width unless given"),
        # constants
        _reals(
            "fold-of-constants",
            "a stored constant is an expression of constants",
            "no further from it than the roundings of the folded operators, or four of the largest, take it",
        ),
    )
}  # fmt: skip
