"""What the exporter's libraries keep to themselves."""

from onnxscript.rewriter.rules.common import _fuse_batchnorm as fuse_batchnorm
from torch._dynamo.exc import UserError

__all__ = [
    "UserError",  # what torch.export.export raises where a model cannot be traced
    "fuse_batchnorm",  # the rules that multiply batch norms into weights, to leave them out
]
