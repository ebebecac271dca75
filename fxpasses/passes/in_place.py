"""What all passes have in common."""

from __future__ import annotations

from typing import Any, ClassVar

from torch.fx import GraphModule
from torch.fx.passes.infra.pass_base import PassBase, PassResult

from fxpasses.api import rewrite_in_place
from fxpasses.report import Form


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
