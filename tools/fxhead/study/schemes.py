"""How torch fills a layer's parameters by default, as the installed torch does it."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fxhead.study.findings import Scheme


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
