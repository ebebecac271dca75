"""What the exporter's libraries keep to themselves."""

from torch._dynamo.exc import UserError

__all__ = [
    "UserError",  # what torch.export.export raises where a model cannot be traced
]
