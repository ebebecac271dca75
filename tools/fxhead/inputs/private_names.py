"""A name that torchvision keeps to itself, with the reason."""

from torchvision.transforms._presets import ImageClassification

__all__ = [
    "ImageClassification",  # the type of the transform that published weights name
]
