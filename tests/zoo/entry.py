"""What one entry of the zoo is, and the stems that its heads stand on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import nn

from fxpasses.miss_codes import MissCode

CHANNELS = 6
CLASSES = 5
MAP = (5, 4)
IMAGE = (3, *MAP)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One model of the zoo and what is true of it.

    Attributes:
        name: identifier, also the test's.
        make: builds the model in train mode and float32; always the same weights.
        input_shapes: shape of each input, without the batch axis.
        form: the form that the sites have now, ``"linear"`` or ``"conv"``.
        sites: module paths of the sites in scope ``head``, in graph order, each once.
        pooled_sites: the same in scope ``pooled``; those of ``head`` where None.
        kernels: kernel size of each site of ``pooled_sites`` in the convolution form.
        needs_inputs: whether extents are only known from example inputs.
        misses: what must be refused: module path and code, in graph order.
        added_nodes: how many nodes the rewrite may add; a head is otherwise no longer than before.
        calls: how many nodes become another op, where that is more than ``pooled_sites``.
        batches: batch sizes that the model takes.
        train_batch: batch size for a training step.
        integer_inputs: whether inputs are class or token numbers below ``CLASSES``.
        copies: whether the rewrite has to copy weights.
        runs: whether the model can be cast and run without changing what it is.
    """

    name: str
    make: Callable[[], nn.Module]
    input_shapes: tuple[tuple[int, ...], ...] = (IMAGE,)
    form: str = "linear"
    sites: tuple[str, ...] = ("head",)
    pooled_sites: tuple[str, ...] | None = None
    kernels: tuple[tuple[int, ...], ...] = ((1, 1),)
    needs_inputs: bool = False
    misses: tuple[tuple[str, MissCode], ...] = ()
    added_nodes: int = 0
    calls: int | None = None
    batches: tuple[int, ...] = (1, 2, 5)
    train_batch: int = 4
    integer_inputs: bool = False
    copies: bool = False
    runs: bool = True

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of the first input, without the batch axis."""
        return self.input_shapes[0]

    @property
    def other_form(self) -> str:
        """The form that a rewrite takes it to."""
        return "conv" if self.form == "linear" else "linear"

    @property
    def all_sites(self) -> tuple[str, ...]:
        """Module paths of the sites in scope ``pooled``."""
        return self.sites if self.pooled_sites is None else self.pooled_sites

    @property
    def scope(self) -> str:
        """The narrowest scope that holds every site."""
        return "head" if self.all_sites == self.sites else "pooled"

    def inputs(
        self, batch: int = 2, dtype: torch.dtype = torch.float64, seed: int = 0
    ) -> tuple[torch.Tensor, ...]:
        """Random inputs with signal in every position."""
        generator = torch.Generator().manual_seed(seed + 100 * batch)
        shapes = [(batch, *shape) for shape in self.input_shapes]
        if self.integer_inputs:
            return tuple(torch.randint(CLASSES, shape, generator=generator) for shape in shapes)
        return tuple(
            torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes
        )

    def example_inputs(self, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, ...] | None:
        """Example inputs where the entry needs them, else None."""
        return self.inputs(2, dtype) if self.needs_inputs else None


def seeded(make: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    """A factory of one model, always the same, with weights and statistics that carry signal."""

    def calibrated() -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = make()
            for module in model.modules():
                _calibrate(module)
        return model

    return calibrated


@torch.no_grad()
def _calibrate(module: nn.Module) -> None:
    """Statistics as after training, and weights large enough that samples differ in every layer."""
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        module.running_mean.normal_(0.0, 0.3)
        module.running_var.uniform_(0.5, 1.5)
    if isinstance(module, nn.modules.batchnorm._BatchNorm | nn.LayerNorm) and module.weight is not None:
        module.weight.uniform_(0.5, 1.5)
        module.bias.normal_(0.0, 0.3)
    elif type(module) in (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d) and "weight" in module._parameters:
        module.weight.mul_(2.0)


class Stem(nn.Sequential):
    """A convolution and an activation, keeping the extent of its input, of rank 1, 2 or 3."""

    def __init__(self, rank: int = 2, channels: int = CHANNELS) -> None:
        convolution = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[rank - 1]
        super().__init__(convolution(3, channels, 3, padding=1), nn.SiLU())


class Chain(nn.Module):
    """A stem, then named steps in order; a step is a module or a function of one value."""

    def __init__(self, rank: int = 2, **steps: object) -> None:
        super().__init__()
        self.stem = Stem(rank)
        self.steps = tuple(steps)
        for name, step in steps.items():
            setattr(self, name, step)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The last step's value."""
        x = self.stem(x)
        for name in self.steps:
            x = getattr(self, name)(x)
        return x
