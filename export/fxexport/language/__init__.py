"""The closed language: models as terms in which nothing is left out, and what identities prove of two.

``term`` and ``layout`` are the language; ``aten`` and ``onnx_file`` read into it, driven by the operators'
own schemas; ``arithmetic``, ``contraction``, ``windows``, ``moves`` and ``definitions`` are its normal forms,
``merging`` is one of linear maps that is tried last; ``compare`` walks two graphs together; ``calls`` holds a
recording against a run, ``memory`` says of a module that holds something after a run whether it is one
function.

May import: ``onnx_node``, ``fxpasses``, torch, onnx. Start in ``compare``.
"""

from fxexport.language.compare import Derivation, derive
from fxexport.language.graph import Dims, Graph, NotRead
from fxexport.language.onnx_file import graph_of_onnx
from fxexport.language.program import graph_of_module

__all__ = [
    "Derivation",
    "Dims",
    "Graph",
    "NotRead",
    "derive",
    "graph_of_module",
    "graph_of_onnx",
]
