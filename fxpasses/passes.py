"""Each rule as a pass in the ``torch.fx`` PassBase convention: a frozen dataclass, its fields the options."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

from torch.fx import GraphModule
from torch.fx.passes.infra.pass_base import PassBase, PassResult

from fxpasses.api import rewrite_in_place
from fxpasses.report import Form, Scope


class InPlacePass(PassBase):
    """A rewrite as a pass, in place; each is a dataclass of those of its options that it has.

    No two are equal: a PassManager merges equal passes.
    """

    to: ClassVar[Form]
    scope: str = "head"
    example_inputs: Any = None
    outputs: tuple[str, ...] = ("logits",)

    def call(self, graph_module: GraphModule) -> PassResult:
        """Edits ``graph_module`` and says whether anything changed."""
        modified = rewrite_in_place(graph_module, self.to, self.scope, self.example_inputs, self.outputs)
        return PassResult(graph_module, modified)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class LinearToConv(InPlacePass):
    """Writes every pooled Linear of a graph as a convolution, in place.

    ``linear(v) = flatten(conv_k(unflatten(v)))``: the weight ``[O, C·∏k]`` is viewed as ``[O, C, *k]``, and
    the flatten before it cancels with the unflatten.

    Before → after:

    >>> from torch import fx, nn
    >>> model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))
    >>> graph_module = fx.symbolic_trace(model)
    >>> [str(node.target) for node in graph_module.graph.nodes if node.op == "call_module"]
    ['0', '1', '2']
    >>> LinearToConv()(graph_module).modified
    True
    >>> [str(node.target) for node in graph_module.graph.nodes if node.op == "call_module"]
    ['0', '2', '1']
    >>> graph_module.get_submodule("2")
    Conv2d(8, 3, kernel_size=(1, 1), stride=(1, 1))

    When not: see ``fxpasses.MissCode``; what is refused stays untouched.

    Numerics: the same products and sums, in an order of the kernel's choosing: equal up to the rounding
    of a dot product of ``C·∏k`` terms. PyTorch's default on CUDA is TF32 for convolutions and not for
    matrix products, so on CUDA the result is less precise unless
    ``torch.backends.cudnn.allow_tf32 = False``.

    Attributes:
        scope: ``"head"``, ``"pooled"`` or ``"all"``.
        example_inputs: see ``fxpasses.rewrite``.
    """

    to = Form.CONV
    scope: str = "head"
    example_inputs: Any = None


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ConvToLinear(InPlacePass):
    """Writes every pooled convolution of a graph as a Linear, in place.

    ``conv_k(u) = unflatten(linear(flatten(u)))`` where the kernel covers the whole map, without padding
    and with one group; the unflatten cancels with the flatten after it.

    Before → after:

    >>> import torch
    >>> from torch import fx, nn
    >>> model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 3, 1), nn.Flatten())
    >>> graph_module = fx.symbolic_trace(model)
    >>> ConvToLinear()(graph_module).modified
    True
    >>> [str(node.target) for node in graph_module.graph.nodes if node.op == "call_module"]
    ['0', '2', '1']
    >>> graph_module.get_submodule("1")
    Linear(in_features=8, out_features=3, bias=True)

    In scope ``"all"`` a 1×1 convolution on a whole map is a Linear on the permuted map; one-hot inputs, of
    which every product is exact, agree bit for bit:

    >>> conv = nn.Conv2d(3, 6, 1)
    >>> linear = ConvToLinear(scope="all")(fx.symbolic_trace(nn.Sequential(conv))).graph_module
    >>> one_hot = torch.zeros(2, 3, 24, 24).scatter_(1, torch.randint(3, (2, 1, 24, 24)), 1.0)
    >>> torch.equal(linear(one_hot), conv(one_hot))
    True
    >>> by_hand = nn.functional.linear(one_hot.permute(0, 2, 3, 1), conv.weight.view(6, 3), conv.bias)
    >>> torch.equal(linear(one_hot), by_hand.permute(0, 3, 1, 2))
    True

    When not: see ``fxpasses.MissCode``; what is refused stays untouched. A k×k kernel in
    ``torch.channels_last`` memory has to be copied; the report says so.

    Numerics: equal up to the rounding of a dot product of ``C·∏k`` terms.

    Attributes:
        scope: ``"head"``, ``"pooled"`` or ``"all"``.
        example_inputs: see ``fxpasses.rewrite``.
    """

    to = Form.LINEAR
    scope: str = "head"
    example_inputs: Any = None


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class PoolToDense(InPlacePass):
    """Moves the average pool of every head below its convolutions, in place.

    ``conv_1(avgpool(u)) = avgpool(conv_1(u))``: an average commutes with a map that is affine and the same at
    every position. So do batch norms and dropouts in eval mode, sums, and products with a number. Linears
    become convolutions first. Before the pool there is then a map of scores, ``[N, K, H, W]``, whose mean
    the logits are. Values that leave the head elsewhere (two logits, features that are returned) get a
    pool each.

    Before → after:

    >>> from torch import fx, nn
    >>> model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)).eval()
    >>> graph_module = fx.symbolic_trace(model)
    >>> PoolToDense()(graph_module).modified
    True
    >>> [str(node.target) for node in graph_module.graph.nodes if node.op == "call_module"]
    ['2', '0', '1']
    >>> graph_module.get_submodule("2")
    Conv2d(8, 3, kernel_size=(1, 1), stride=(1, 1))

    When not: a nonlinearity between pool and logits (``NONLINEAR``: VGG, MobileNetV3), a pool to a grid
    (``POOL_GRID``), a maximum, a sum or an average of tokens (``POOL_KIND``), dropout or batch norm in train
    mode (``TRAIN_MODE``), a squeeze-excite branch (``SIDE_BRANCH``), and all that ``LinearToConv`` refuses.
    In train mode the result would draw a dropout mask for every position: it is a form for inference.

    Numerics: both forms sum the same products in another order. With ``P`` positions, ``C`` channels and
    ``m`` the mean over positions of ``|W|·|x|``, each lies within ``γ_n · (m + |b|)`` of the exact logits,
    ``n = C + P + 2``, so that they differ by at most twice that (Higham, *Accuracy and Stability of
    Numerical Algorithms*, §3.1).

    Attributes:
        scope: ``"head"``; in ``"pooled"`` the side branches are refused one by one.
        example_inputs: see ``fxpasses.rewrite``.
        outputs: ``("logits",)`` or ``("logits", "map")``; see ``fxpasses.rewrite``.
    """

    to = Form.DENSE
    scope: str = "head"
    example_inputs: Any = None
    outputs: tuple[str, ...] = ("logits",)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class HeadToFcn(InPlacePass):
    """Makes every head slide over the map in windows of the native size, one position at a time, in place.

    With ``H`` the extent of the map at the native size and ``k`` that of the pooled grid, ``m = H / k``: the
    pool becomes an average over ``m`` positions at stride 1 (nothing where ``m`` is 1), the convolution that
    reads the grid is dilated by ``m``, and the flatten goes. At the native size the result is the logits as
    ``[N, K, 1, 1]``; at a larger one, the value at each position is what the head gives for the window of the
    map that starts there. What stands between pool and logits may be nonlinear (VGG, MobileNetV3).

    Before → after:

    >>> import torch
    >>> from torch import fx, nn
    >>> model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)).eval()
    >>> graph_module = fx.symbolic_trace(model)
    >>> HeadToFcn(example_inputs=torch.randn(2, 8, 7, 7))(graph_module).modified
    True
    >>> [node.name for node in graph_module.graph.nodes]
    ['input_1', 'avg_pool2d', '_2', 'output']
    >>> graph_module(torch.randn(2, 8, 9, 7)).shape
    torch.Size([2, 3, 3, 1])

    When not: the native size is not known (``NATIVE_SIZE``); the native map is no multiple of the grid
    (``WINDOW``); a maximum, a sum or an average of tokens (``POOL_KIND``); an op after the pool that looks at
    more than one position (``NOT_A_MAP``); and all that ``LinearToConv`` refuses. An input below the native
    size is an error of the pool or of the convolution when it runs, and of ``fxpasses.fcn.native_size``
    before.

    Numerics: at the native size equal up to the rounding of a dot product of ``C·∏k`` terms.

    Attributes:
        scope: ``"head"``; in ``"pooled"`` the side branches are refused one by one.
        example_inputs: inputs of the native size; needed where the graph does not know its shapes.
    """

    to = Form.FCN
    scope: str = "head"
    example_inputs: Any = None


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ConvToUnfold(InPlacePass):
    """Writes every ``Conv2d`` of a graph as unfold, Linear and the view of a map, in place.

    ``conv_k(u) = fold_shape(linear(unfold(u)))``: a column holds the ``C·kh·kw`` numbers of a patch, and the
    weight ``[O, C, kh, kw]`` is viewed as ``[O, C·kh·kw]``. Any kernel, stride, dilation and padding; what
    unfold cannot pad itself (another mode than zeros, the odd row of ``padding='same'``) is padded before.

    Before → after:

    >>> import torch
    >>> from torch import fx, nn
    >>> graph_module = fx.symbolic_trace(nn.Sequential(nn.Conv2d(3, 8, 3, padding=1)))
    >>> ConvToUnfold()(graph_module).modified
    True
    >>> print(graph_module.code.strip().splitlines()[-2].partition(";")[0].strip())
    unflatten = torch.unflatten(contiguous, -1, [size, size_1])
    >>> graph_module.get_submodule("0")
    Linear(in_features=27, out_features=8, bias=True)
    >>> graph_module(torch.zeros(2, 3, 9, 5)).shape
    torch.Size([2, 8, 9, 5])

    Memory: the columns are ``kh·kw / (sh·sw)`` times the map that is unfolded, and a batch of them is copied
    once more by torch's product; ``rewrite(…).report.memory`` says how many bytes before anything runs.

    When not: groups (``GROUPS``), transposed convolutions (``TRANSPOSED``), those of one or three dimensions
    (``RANK``), and modules or weights that cannot change their shape (see ``fxpasses.MissCode``).

    Numerics: equal up to the rounding of a dot product of ``C·kh·kw`` terms.
    """

    to = Form.UNFOLD
    scope = Scope.UNFOLDED


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class UnfoldToConv(InPlacePass):
    """Writes every matrix product of unfolded patches as a ``Conv2d`` again, in place.

    What ``ConvToUnfold`` wrote is taken back exactly. What was written by hand is recognised by its axes:
    unfold gives ``[N, K, L]``, a product with a weight (``@``, ``matmul``, ``einsum``, ``F.linear``,
    ``nn.Linear``) makes ``K`` into ``O``, and a view makes ``L`` into height and width, in any order and with
    permutes between.

    Before → after:

    >>> import torch
    >>> from torch import fx, nn
    >>> import torch.nn.functional as F
    >>> class ByHand(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.weight = nn.Parameter(torch.randn(8, 3, 3, 3))
    ...     def forward(self, x):
    ...         out = self.weight.view(8, -1) @ F.unfold(x, 3)
    ...         return out.view(-1, 8, x.size(2) - 2, x.size(3) - 2)
    >>> graph_module = fx.symbolic_trace(ByHand())
    >>> UnfoldToConv()(graph_module).modified
    True
    >>> [node.name for node in graph_module.graph.nodes], graph_module.graph.find_nodes(
    ...     op="call_function", target=F.conv2d)[0].args[3:]
    (['x', 'weight', 'matmul', 'output'], ((1, 1), (0, 0), (1, 1)))

    When not: sizes that are not computed from those of the unfolded map, unless the example inputs show
    that they are right (``UNKNOWN_LAYOUT``, ``UNKNOWN_EXTENT``), a batch size written as a number
    (``BAKED_BATCH``), a map that is written to in place in between (``IN_PLACE_ALIAS``), a weight that
    something else needs as it is (``TIED_WEIGHT``, ``SHARED_MODULE``). Products of columns with anything but
    a parameter are no candidates.

    Numerics: equal up to the rounding of a dot product of ``C·kh·kw`` terms.

    Attributes:
        example_inputs: see ``fxpasses.rewrite``.
    """

    to = Form.CONV
    scope = Scope.UNFOLDED
    example_inputs: Any = None
