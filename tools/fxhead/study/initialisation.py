"""What the two layers are filled with: their schemes, and what they draw under one seed and under many."""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fxhead.study.findings import InitialisationRecord, Scheme
from fxhead.study.network import WIDTH

_VALUES = 100_000
_MOST_SEEDS = 100
_UNREACHED = 20.0
"""A uniform sample of n reaches ``1 - 20/n`` of its bound but for a chance of e⁻²⁰ = 2e-9."""

Layer = nn.Linear | nn.Conv2d


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LayerShapes:
    """A Linear and the convolution that it equals on a map of ``kernel`` × ``kernel``."""

    channels: int
    classes: int
    kernel: int = 1

    def linear(self) -> nn.Linear:
        """The Linear, freshly drawn."""
        return nn.Linear(self.channels * self.kernel**2, self.classes)

    def conv(self) -> nn.Conv2d:
        """The convolution, freshly drawn."""
        return nn.Conv2d(self.channels, self.classes, kernel_size=self.kernel)


def shapes_under_study(classes: int) -> tuple[LayerShapes, ...]:
    """The head that is trained, the forum's, ImageNet's on it, and VGG's 7×7 grid."""
    return (
        LayerShapes(channels=WIDTH, classes=classes),
        LayerShapes(channels=512, classes=10),
        LayerShapes(channels=512, classes=1000),
        LayerShapes(channels=512, classes=10, kernel=7),
    )


def compare_initialisation(
    pairs: tuple[LayerShapes, ...], *, seed: int, alpha: float
) -> tuple[InitialisationRecord, ...]:
    """One record for each parameter of each pair; alpha is shared among their tests (Bonferroni)."""
    tests = 2 * len(pairs)
    return tuple(
        record
        for index, shapes in enumerate(pairs)
        for record in _compare(shapes, seed=seed * len(pairs) + index, alpha=alpha, tests=tests)
    )


def _compare(shapes: LayerShapes, *, seed: int, alpha: float, tests: int) -> Iterator[InitialisationRecord]:
    size = shapes.channels * shapes.kernel**2 * shapes.classes
    seeds = max(10, min(_MOST_SEEDS, _VALUES // size))
    first = 2 * _MOST_SEEDS * seed
    even, odd = range(first, first + 2 * seeds, 2), range(first + 1, first + 2 * seeds, 2)
    linears, same_seeds = [_drawn(shapes.linear, s) for s in even], [_drawn(shapes.conv, s) for s in even]
    convs = [_drawn(shapes.conv, s) for s in odd]
    schemes = read_schemes(shapes.linear), read_schemes(shapes.conv)
    for parameter in ("weight", "bias"):
        ours, theirs = (_values(layers, parameter) for layers in (linears, convs))
        both = schemes[0][parameter], schemes[1][parameter]
        statistic, p_value = map(float, stats.ks_2samp(ours, theirs))  # Kolmogorov-Smirnov
        fills = fills_bound(ours, both[0].bound) and fills_bound(theirs, both[1].bound)
        yield InitialisationRecord(
            linear=_written(linears[0]),
            conv=_written(convs[0]),
            parameter=parameter,
            linear_scheme=both[0],
            conv_scheme=both[1],
            draws=len(ours),
            fills_bound=fills,
            ks_statistic=statistic,
            ks_p_value=p_value,
            seeds=seeds,
            identical_seeds=sum(map(_is_identical(parameter), linears, same_seeds)),
            same=is_same_scheme(*both) and fills and p_value >= alpha / tests,
        )


def fills_bound(values: NDArray[np.float64], bound: float | None) -> bool:
    """Whether the values lie in ±bound and reach as near to it as so many uniform ones have to."""
    if bound is None:
        return False
    size = float(np.abs(values).max())
    # the bound is computed in double precision, the values are rounded to single
    return (1 - _UNREACHED / len(values)) * bound <= size <= bound * (1 + 2.0**-23)


def _drawn(make: Callable[[], Layer], seed: int) -> Layer:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def _values(layers: list[Layer], parameter: str) -> NDArray[np.float64]:
    """The first values of that parameter over all layers, in order."""
    found: list[NDArray[Any]] = []
    for layer in layers:
        found.append(layer.get_parameter(parameter).detach().flatten().numpy())
        if sum(map(len, found)) >= _VALUES:
            break
    return np.concatenate(found).astype(np.float64)[:_VALUES]


def _is_identical(parameter: str) -> Callable[[Layer, Layer], bool]:
    def same(linear: Layer, conv: Layer) -> bool:
        ours, theirs = (layer.get_parameter(parameter).detach() for layer in (linear, conv))
        return torch.equal(ours, theirs.view_as(ours))

    return same


def _written(layer: Layer) -> str:
    if isinstance(layer, nn.Linear):
        return f"Linear({layer.in_features}, {layer.out_features})"
    edges = "×".join(map(str, layer.kernel_size))
    return f"Conv2d({layer.in_channels}, {layer.out_channels}, {edges})"


def is_same_scheme(first: Scheme, second: Scheme) -> bool:
    """Whether both call the same initialiser with the same arguments and draw from the same interval."""
    return (first.function, first.bound) == (second.function, second.bound)


class _InitialiserCalls(TorchFunctionMode):
    """Sees every ``torch.nn.init`` function that the installed torch calls, with its arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Callable[..., Any], dict[str, Any]]] = []

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if getattr(func, "__module__", None) == "torch.nn.init":
            self.calls.append((func, dict(inspect.signature(func).bind(*args, **(kwargs or {})).arguments)))
        return func(*args, **(kwargs or {}))


def read_schemes(make: Callable[[], nn.Module]) -> dict[str, Scheme]:
    """How the layer's constructor fills each parameter: the last initialiser that it calls on it.

    Source:
        the ``reset_parameters`` of ``nn.Linear`` and ``nn.Conv2d``, run as installed.
    """
    with _InitialiserCalls() as seen:
        layer = make()
    schemes: dict[str, Scheme] = {}
    for name, parameter in layer.named_parameters():
        for function, arguments in seen.calls:
            if arguments.get("tensor") is parameter:
                schemes[name] = _scheme(function, arguments, layer)
    return schemes


def _scheme(function: Callable[..., Any], arguments: dict[str, Any], layer: nn.Module) -> Scheme:
    fan_in = int(layer.get_parameter("weight")[0].numel())
    name, bound = f"torch.nn.init.{function.__name__}", None
    if function is nn.init.kaiming_uniform_ and arguments.get("mode", "fan_in") == "fan_in":
        slope = float(arguments.get("a", 0.0))
        # He et al., "Delving deep into rectifiers", 2015: gain · √(3 / fan_in)
        gain = nn.init.calculate_gain(arguments.get("nonlinearity", "leaky_relu"), slope)
        bound = gain * math.sqrt(3 / fan_in)
        name = f"Kaiming uniform, a = {'√5' if math.isclose(slope**2, 5) else format(slope, 'g')}"
    elif function is nn.init.uniform_ and arguments.get("a") == -arguments.get("b", 1.0):
        bound = float(arguments["b"])
        is_fan_in = math.isclose(bound, 1 / math.sqrt(fan_in))
        name = "uniform in ±1/√fan_in" if is_fan_in else f"uniform in ±{bound:g}"
    plain = {
        key: value for key, value in arguments.items() if not isinstance(value, Tensor) and value is not None
    }
    spelled = ", ".join(f"{key}={value!r}" for key, value in sorted(plain.items()))
    return Scheme(
        function=f"{function.__name__}({spelled})", name=name, bound=bound, source=_source_of(layer)
    )


def _source_of(layer: nn.Module) -> str:
    """File and line of the layer's ``reset_parameters`` in the installed torch."""
    kind: Any = type(layer)
    method = kind.reset_parameters
    path = Path(inspect.getsourcefile(method) or "")
    parts = path.parts[path.parts.index("torch") :] if "torch" in path.parts else path.parts
    return f"{'/'.join(parts)}:{inspect.getsourcelines(method)[1]}"
