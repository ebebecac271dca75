"""How much memory unfolded convolutions take, before anything runs.

The graph is run once on fake tensors, which have sizes and no data. What is alive at each node is what a
GraphModule holds there: it drops a value after its last reader. A convolution's place is then taken by the
steps of its product. What a kernel needs for itself beyond that is not known to a graph, and not counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.fx import Graph, Node

from fxpasses.graph.shapes import Recorder, run_on_fakes
from fxpasses.im2col.find import Im2col
from fxpasses.private_names import FakeTensor, pytree
from fxpasses.report import Form, Memory, SiteMemory


class _Liveness(Recorder):
    """Records beside every shape the bytes that are alive when a node has run, weights aside."""

    def __init__(self, root: nn.Module, graph: Graph) -> None:
        super().__init__(root, graph)
        self.inputs: dict[int, int] = {}
        self.alive: dict[Node, int] = {}
        self.item_bytes: dict[Node, int] = {}

    def run_node(self, n: Node) -> Any:
        """One node."""
        value = super().run_node(n)
        if n.op == "placeholder":  # whoever calls the model holds its inputs
            self.inputs |= _storages(value)
        if isinstance(value, torch.Tensor):
            self.item_bytes[n] = value.element_size()
        held = self.inputs | _storages([*self.env.values(), value])
        self.alive[n] = sum(held.values())
        return value


def _storages(values: Any) -> dict[int, int]:
    """Bytes by storage; parameters are no fake tensors, and are not counted."""
    found = (value.untyped_storage() for value in pytree.tree_leaves(values) if isinstance(value, FakeTensor))
    return {storage._cdata: storage.nbytes() for storage in found}


def memory_of(
    graph: Graph,
    root: nn.Module,
    lifted: Mapping[str, str],
    sites: Sequence[Im2col],
    inputs: Sequence[Any] | None,
) -> Memory:
    """The columns of every site, and the most that is alive at once before and after they are unfolded.

    Without ``inputs`` only the factors of large maps are known.

    Raises:
        InputError: the example inputs do not run through the model.
    """
    if inputs is None:
        unsized = (SiteMemory(name=s.match.site.name, per_pixel=s.patches.per_pixel) for s in sites)
        return Memory(sites=tuple(unsized))
    run = _Liveness(root, graph)
    run_on_fakes(run, graph, root, lifted, inputs)
    measured = {site.match.node: _sized(site, run) for site in sites}
    after = dict(run.alive)
    for site in sites:
        after[site.match.node] += _more(site, measured[site.match.node], run)
    shapes = tuple(tuple(value.shape) for value in inputs if isinstance(value, torch.Tensor))
    return Memory(
        sites=tuple(measured.values()),
        input_shapes=shapes,
        peak_before_bytes=max(run.alive.values()),
        peak_bytes=max(after.values()),
    )


def _sized(site: Im2col, run: _Liveness) -> SiteMemory:
    shape = run.shapes[site.source]
    *lead, channels, height, width = shape
    rows, columns = site.patches.count((height, width))
    item = run.item_bytes[site.source]
    batch = lead[0] if lead else 1
    numbers = batch * site.match.channels * site.patches.kernel[0] * site.patches.kernel[1] * rows * columns
    return SiteMemory(
        name=site.match.site.name,
        per_pixel=site.patches.per_pixel,
        map_bytes=batch * channels * height * width * item,
        columns_bytes=numbers * item,
    )


def _more(site: Im2col, size: SiteMemory, run: _Liveness) -> int:
    """What is alive at most while a site multiplies, over what is alive when its node has run."""
    assert size.columns_bytes is not None
    *lead, _, height, width = run.shapes[site.source]
    is_batch = bool(lead) and lead[0] > 1
    columns = size.columns_bytes
    # torch copies the transposed columns of a batch for its product
    copies = columns if is_batch else 0
    if site.match.site.form is Form.UNFOLD:
        return copies
    result = run.shapes[site.end]
    padded_height, padded_width = site.patches.padded((height, width))
    pad = 0
    if site.patches.needs_pad and size.map_bytes is not None:
        pad = size.map_bytes * padded_height * padded_width // (height * width)
    outputs = torch.Size(result).numel() * run.item_bytes[site.end]
    return max(columns + copies, pad + columns - outputs, outputs)
