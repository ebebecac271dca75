"""What a model's operators may make and do: seen while nothing is computed, on tensors without memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import fx

from fxexport.private_names import TorchDispatchMode
from fxexport.untrusted.limits import MAX_TENSOR_BYTES, MAX_TENSOR_GROWTH, MAX_WINDOW_STEPS
from fxexport.untrusted.refused import Refused
from fxpasses.graph.shapes import Runner
from fxpasses.private_names import FakeTensorMode, pytree


class TensorBudget(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Within it no operator gives a tensor of more bytes than the limit, or than a multiple of the inputs.

    None goes over more elements of windows either: most operators take as long as what they read and give is
    large, and products of matrices are what files are for, but a window is one number in a file.

    Raises:
        Refused: one would.
    """

    def __init__(self, inputs: Iterable[torch.Tensor]) -> None:
        """Counts the bytes of ``inputs``: who asks for large ones gets large values."""
        super().__init__()  # type: ignore[no-untyped-call]
        given = sum(tensor.numel() * tensor.element_size() for tensor in inputs)
        self._most = max(MAX_TENSOR_BYTES, MAX_TENSOR_GROWTH * given)

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """The operator's result, if it is small enough."""
        result = func(*args, **(kwargs or {}))
        window = _window(func, args, kwargs or {})
        for leaf in pytree.tree_leaves(result):
            if window > 1 and isinstance(leaf, torch.Tensor) and leaf.numel() * window > MAX_WINDOW_STEPS:
                raise Refused(
                    f"goes over a window of {window:,} elements for each of {leaf.numel():,}, more than the "
                    f"limit of {MAX_WINDOW_STEPS:,} together"
                )
            if isinstance(leaf, torch.Tensor) and leaf.untyped_storage().nbytes() > self._most:
                raise Refused(
                    f"makes a tensor of {leaf.untyped_storage().nbytes():,} bytes, more than the limit of "
                    f"{self._most:,}"
                )
        return result


def _window(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> int:
    """Elements of the window that the operator's schema has an argument for; 1 where it has none."""
    given = {argument.name: value for argument, value in zip(func._schema.arguments, args, strict=False)}
    sizes = (given | {**kwargs}).get("kernel_size", 1)
    return math.prod(sizes) if isinstance(sizes, Sequence) else int(sizes)


def require_small_tensors(module: fx.GraphModule, inputs: Sequence[torch.Tensor]) -> None:
    """Returns where running the graph on these inputs makes no tensor beyond the limit.

    Raises:
        Refused: it makes one. Whatever else fails, fails again when it is run.
    """
    with FakeTensorMode(allow_non_fake_inputs=True) as mode, torch.no_grad():
        fakes = [mode.from_tensor(tensor) for tensor in inputs]
        try:
            with TensorBudget(inputs):
                Runner(module).run(*fakes)
        except Refused:
            raise
        except Exception:  # noqa: BLE001 - what fails here is told by the run that follows
            return
