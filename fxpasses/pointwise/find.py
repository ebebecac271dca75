"""Sites of scope ``all``: affine ops at every position of a map, of tokens, or of a vector without a pool.

A Linear works on the last axis of whatever it reads, a 1×1 convolution on the second; between the two lies a
permutation, whatever the other axes mean: ``linear(channels_last(u)) = channels_last(conv_1(u))``. So all
that has to be known is how many axes there are. Reads, never edits.

Refused are: a number of axes that nothing says, or that no convolution has; a 1×1 convolution that strides,
pads, has groups or is transposed; layers inside of what is called whole.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn
from torch.fx import Node

from fxpasses.engine import refusals
from fxpasses.engine.match import Match, matched, missed
from fxpasses.engine.ranks import Ranks
from fxpasses.graph.tree import attribute, is_uninitialized
from fxpasses.heads.headless import MATRIX_PRODUCT, in_subgraph
from fxpasses.heads.refusals import stepping_problem
from fxpasses.miss_codes import MissCode
from fxpasses.private_names import ConvNd
from fxpasses.report import Form, Miss, Problem, Scope
from fxpasses.vocabulary.handlers import MAX_RANK
from fxpasses.vocabulary.ops import Affine, Opaque, Product, Subgraph, WeightSource
from fxpasses.vocabulary.questions import is_product, wrapped
from fxpasses.vocabulary.sizes import is_shape_value
from fxpasses.vocabulary.vocabulary import Vocabulary

_MAX_VIEWS = 4


def candidates(ranks: Ranks, vocabulary: Vocabulary) -> Iterator[tuple[Node, Affine]]:
    """Every Linear and every 1×1 convolution of a graph, in its order."""
    for node, op in ranks.ops.items():
        if not isinstance(op, Affine) or _is_of_values(node, op, vocabulary):
            continue
        if op.form is Form.LINEAR or _is_pointwise(op, vocabulary):
            yield node, op


def match_of(node: Node, op: Affine, ranks: Ranks, vocabulary: Vocabulary) -> Match | Problem:
    """The candidate as a site, or why it is none."""
    problem = (
        refusals.module_problem(op)
        or refusals.weight_problem(op, vocabulary.root)
        or stepping_problem(op)
        or _axes_problem(node, op, ranks)
    )
    if problem is not None:
        return problem
    weight = vocabulary.weight(op)
    assert weight is not None, "the guards let only tensors through"
    problem = refusals.bias_problem(op, vocabulary, weight.shape[0])
    if problem is not None:
        return problem
    around = wrapped(node, op, ranks.ops)
    source = op.source if around is None else around.source
    rank = op.rank if op.form is Form.CONV else (ranks.axes[source] or 0) - 2
    return matched(
        node,
        op,
        form=op.form,
        scope=Scope.ALL,
        out_features=weight.shape[0],
        channels=weight.shape[1],
        kernel=(1,) * (rank or ranks.flat[op.source]),
    )


def hidden(ranks: Ranks, vocabulary: Vocabulary) -> Iterator[tuple[Node, Miss]]:
    """Layers inside of what the passes do not enter, and matrix products of a parameter."""
    for node, op in ranks.ops.items():
        if isinstance(op, Subgraph) and vocabulary.has_affine(op):
            yield node, missed(node, node.name, Form.LINEAR, in_subgraph(node, "it is"))
        elif isinstance(op, Product) and any(_is_weight(source, vocabulary) for source in op.sources):
            yield node, missed(node, node.name, Form.LINEAR, MATRIX_PRODUCT)
        elif isinstance(op, Opaque) and node.op in ("call_module", "call_function", "call_method"):
            for name, layer in _layers_in(node, vocabulary):
                form = Form.LINEAR if isinstance(layer, nn.Linear) else Form.CONV
                yield node, missed(node, name, form, _inside(node, vocabulary))


def _is_of_values(node: Node, op: Affine, vocabulary: Vocabulary) -> bool:
    """Whether an op is a product of two values, as of queries and keys, and no Linear of a weight."""
    is_weighed = op.weight_source is not WeightSource.COMPUTED
    return not is_weighed and is_product(node) and not _is_weight(op.weight_node, vocabulary)


def _is_pointwise(op: Affine, vocabulary: Vocabulary) -> bool:
    if op.module is not None:
        kernel: tuple[int, ...] = getattr(op.module, "kernel_size", ())
        return set(kernel) == {1}
    weight = vocabulary.weight(op)
    return weight is not None and not is_uninitialized(weight) and set(weight.shape[2:]) == {1}


def _axes_problem(node: Node, op: Affine, ranks: Ranks) -> Problem | None:
    around = wrapped(node, op, ranks.ops)
    axes = ranks.axes[op.source if around is None else around.source]
    if op.form is Form.CONV:
        if axes in (None, op.rank + 2):
            return None
        return Problem(MissCode.RANK, f"it reads {axes} axes, so no batch of maps", "give it a batch of maps")
    if axes is None:
        return Problem(
            MissCode.UNKNOWN_LAYOUT,
            f"nothing in the graph says how many axes {op.source.name!r} has",
            "pass example_inputs (--input-shape)",
        )
    if 2 <= axes <= MAX_RANK + 2:
        return None
    return Problem(
        MissCode.RANK,
        f"it reads {axes} axes, and convolutions take 3 to {MAX_RANK + 2}",
        "give it a batch axis first" if axes < 2 else "merge some of the axes before it",
    )


def _is_weight(node: Node | None, vocabulary: Vocabulary) -> bool:
    """Whether a factor is a parameter, or views of one, as decompositions expand it for a batch."""
    for _ in range(_MAX_VIEWS):
        if node is None:
            return False
        tensor = vocabulary.tensor(vocabulary.tensor_name(node))
        sources = [source for source in node.all_input_nodes if not is_shape_value(source)]
        if tensor is not None or len(sources) != 1:
            return isinstance(tensor, nn.Parameter)
        node = sources[0]
    return False


def _layers_in(node: Node, vocabulary: Vocabulary) -> Iterator[tuple[str, nn.Module]]:
    """Linears and 1×1 convolutions below a module that is called whole, or whose weights a function reads."""
    if node.op == "call_module":
        path = str(node.target)
        module = vocabulary.module(path)
        below = () if module is None else module.named_modules(prefix=path)
        found = [(name, layer) for name, layer in below if layer is not module]
    else:
        read = [source for source in node.all_input_nodes if source.op == "get_attr"]
        owners = dict.fromkeys(str(source.target).rpartition(".")[0] for source in read)
        layers = ((owner, attribute(vocabulary.root, owner)) for owner in owners if owner)
        found = [(owner, layer) for owner, layer in layers if isinstance(layer, nn.Module)]
    for name, layer in found:
        is_conv = isinstance(layer, ConvNd) and set(layer.kernel_size) == {1}
        if is_conv or isinstance(layer, nn.Linear):
            yield name, layer


def _inside(node: Node, vocabulary: Vocabulary) -> Problem:
    called = vocabulary.module(str(node.target)) if node.op == "call_module" else node.target
    what = getattr(called, "__name__", type(called).__name__ if node.op == "call_module" else str(called))
    return Problem(
        MissCode.OPAQUE_CALL,
        f"it is inside of {what!r}, which is called whole ({node.name!r})",
        "trace with way='export' (--trace export), which writes out what it calls",
    )
