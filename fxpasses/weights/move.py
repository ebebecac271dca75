"""One weight that changes its shape between two forms, and in which order its values lie."""

from __future__ import annotations

import dataclasses
import enum
import math

import torch

from fxpasses.errors import PlanError
from fxpasses.report import Form, JsonRecord


class WeightOrder(enum.StrEnum):
    """Order in which the linear form reads the axes of a ``[C, *k]`` kernel."""

    CHANNELS_FIRST = "channels_first"
    CHANNELS_LAST = "channels_last"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class WeightMove(JsonRecord):
    """One parameter whose shape differs between the forms.

    Attributes:
        name: state-dict name, the same in both forms.
        linear_shape: ``(O, C * prod(k))``.
        conv_shape: ``(O, C, *k)``.
        order: order in which the linear form reads the kernel's axes.
    """

    name: str
    linear_shape: tuple[int, ...]
    conv_shape: tuple[int, ...]
    order: WeightOrder = WeightOrder.CHANNELS_FIRST

    def __post_init__(self) -> None:
        fix = "make the plan again with rewrite(...).plan"
        if len(self.linear_shape) != 2 or self.conv_shape[:1] != self.linear_shape[:1]:
            what = f"{self.linear_shape} and {self.conv_shape} are not (O, C * prod(k)) and (O, C, *k)"
            raise PlanError(what, where=self.name, fix=fix)
        if math.prod(self.linear_shape) != math.prod(self.conv_shape):
            what = f"{self.linear_shape} and {self.conv_shape} hold different numbers of weights"
            raise PlanError(what, where=self.name, fix=fix)

    def shape(self, form: Form) -> tuple[int, ...]:
        """Shape of the parameter in ``form``."""
        return self.linear_shape if form is Form.LINEAR else self.conv_shape

    def to_conv(self, weight: torch.Tensor) -> torch.Tensor:
        """The ``(O, C, *k)`` view of a ``(O, C * prod(k))`` weight; never copies."""
        if self.order is WeightOrder.CHANNELS_FIRST:
            return weight.view(self.conv_shape)
        out, channels, *kernel = self.conv_shape
        return weight.view(out, *kernel, channels).movedim(-1, 1)

    def to_linear(self, weight: torch.Tensor) -> torch.Tensor:
        """The ``(O, C * prod(k))`` form of a ``(O, C, *k)`` weight.

        A view wherever the strides allow one; a k×k kernel in ``torch.channels_last`` memory
        read in channels-first order (and the reverse) has to be copied.
        """
        if self.order is WeightOrder.CHANNELS_LAST:
            weight = weight.movedim(1, -1)
        return weight.reshape(self.linear_shape)

    def convert(self, weight: torch.Tensor, to: Form) -> torch.Tensor:
        """``weight`` in the form ``to``."""
        return self.to_conv(weight) if to is Form.CONV else self.to_linear(weight)
