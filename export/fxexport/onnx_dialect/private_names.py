"""What torch keeps to itself of symbolic sizes."""

from torch._dynamo.source import ConstantSource

__all__ = [
    "ConstantSource",  # where a symbolic size comes from, which a shape environment asks of each
]
