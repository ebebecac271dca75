"""What runs is the module itself, and what a run leaves behind is seen."""

from __future__ import annotations

import torch
from torch import fx, nn

from fxexport import Verdict, certify
from tests.fxexport.pairs import small_pair


class Counting(nn.Module):
    """A classifier whose answer changes with how often it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, _ = small_pair()
        self.asked = 0
        self.seen: list[int] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.asked += 1
        logits = self.inner(x)
        return logits if self.asked < 10_000 else -logits


class Listing(Counting):
    """The same, in a list."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append(1)
        return self.inner(x)


class Wrapped(nn.Module):
    """The classifier alone, or times a number."""

    def __init__(self, factor: float | None = None) -> None:
        super().__init__()
        self.inner, _ = small_pair()
        self.factor = factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = self.inner(x)
        return logits if self.factor is None else logits * self.factor


def images(count: int = 8) -> torch.Tensor:
    return torch.randn(count, 3, 9, 9, generator=torch.Generator().manual_seed(0))


def test_a_module_that_counts_its_runs_has_no_derivation() -> None:
    for kind, name in ((Counting, "asked"), (Listing, "seen")):
        certificate = certify(Wrapped(), kind().eval(), images())
        assert certificate.verdict is Verdict.AGREES, certificate.reason
        assert f"a run changes {name}" in certificate.reason


def test_code_that_is_not_the_graph_s_is_judged_by_what_it_gives() -> None:
    """Its copy would be made from the graph, and would show the reference's numbers."""
    stale = fx.symbolic_trace(Wrapped())
    (output,) = stale.graph.find_nodes(op="output")
    (logits,) = output.all_input_nodes
    with stale.graph.inserting_after(logits):
        tripled = stale.graph.call_function(torch.mul, (logits, 3.0))
    output.replace_input_with(logits, tripled)  # and no recompile()
    x = images()
    assert not torch.equal(stale(x), Wrapped(3.0)(x))
    assert certify(Wrapped(3.0).eval(), stale.eval(), x).verdict is Verdict.BROKEN
