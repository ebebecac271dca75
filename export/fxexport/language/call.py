"""One operator of a graph with everything that its schema says, bound by name; what is not read counts.

An operator is interpreted only if every argument was either read or has the default that its schema gives.
Whoever interprets one can therefore forget an argument, but not lose it: the operator becomes a foreign one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias, TypeVar

from fxexport.language.extents import Extent, Polynomial
from fxexport.language.term import Terms, Uninterpreted, Value

Kind = TypeVar("Kind")
_ABSENT = object()
Handler: TypeAlias = Callable[["Call"], Any]
"""What gives an operator's result, or results."""


class Call:
    """An operator's arguments by name.

    Attributes:
        terms: the table of terms.
        results: types of the results, where the graph is typed.
    """

    def __init__(
        self,
        terms: Terms,
        arguments: Mapping[str, Any],
        defaults: Mapping[str, Any],
        results: Sequence[str | None] = (),
    ) -> None:
        """Binds the arguments.

        Args:
            terms: the table of terms.
            arguments: every argument of the schema by name, defaults filled in.
            defaults: the default of each that has one.
            results: type of each result, None where it is unknown.
        """
        self.terms = terms
        self.results = tuple(results)
        self._arguments = arguments
        self._defaults = defaults
        self._read: set[str] = set()

    def any(self, name: str) -> Any:
        """The argument as it is."""
        self._read.add(name)
        found = self._arguments.get(name, _ABSENT)
        if found is _ABSENT:
            raise Uninterpreted(f"no argument {name}")
        return found

    def ignore(self, *names: str) -> None:
        """Takes arguments as read that do not bear on what is computed; the schema may have none of them."""
        self._read.update(names)

    def has(self, name: str) -> bool:
        """Whether the schema has the argument."""
        return name in self._arguments

    def tensor(self, name: str) -> Value:
        """An argument that is a tensor."""
        return self._checked(name, Value)

    def real(self, name: str) -> Value:
        """An argument that is a tensor of numbers whose arithmetic stands for that of the reals."""
        value = self.tensor(name)
        if not value.is_float:
            raise Uninterpreted("a function of integers")
        return value

    def optional_tensor(self, name: str) -> Value | None:
        """An argument that is a tensor or None."""
        return None if self.any(name) is None else self.tensor(name)

    def tensors(self, name: str) -> list[Value]:
        """An argument that is a list of tensors."""
        found = self.any(name)
        if not isinstance(found, list | tuple) or not all(isinstance(item, Value) for item in found):
            raise Uninterpreted(f"{name} is no list of tensors")
        return list(found)

    def integer(self, name: str) -> int:
        """An argument that is an integer."""
        found = self.any(name)
        if not isinstance(found, int) or isinstance(found, bool):
            raise Uninterpreted(f"{name} is no integer")
        return found

    def flag(self, name: str) -> bool:
        """An argument that is true or false."""
        return self._checked(name, bool)

    def is_on(self, name: str, *, otherwise: bool = False) -> bool:
        """Whether an argument that ONNX writes as 0 or 1 is 1; ``otherwise`` where the schema has none.

        Of any other number each runtime makes what it likes: it compares with 1, or with 0.
        """
        if not self.has(name):
            return otherwise
        found = self.integer(name)
        if found not in (0, 1):
            raise Uninterpreted(f"{name} is neither 0 nor 1")
        return found == 1

    def text(self, name: str) -> str:
        """An argument that is a text."""
        return self._checked(name, str)

    def number(self, name: str) -> float | int:
        """An argument that is a number."""
        found = self.any(name)
        if not isinstance(found, int | float):
            raise Uninterpreted(f"{name} is no number")
        return found

    def extent(self, name: str) -> Extent:
        """An argument that is an extent."""
        found = self.any(name)
        if isinstance(found, bool) or not isinstance(found, int | Polynomial):
            raise Uninterpreted(f"{name} is no extent")
        return found

    def extents(self, name: str) -> list[Extent]:
        """An argument that is a list of extents."""
        found = self.any(name)
        if not isinstance(found, list | tuple) or not all(
            isinstance(item, int | Polynomial) for item in found
        ):
            raise Uninterpreted(f"{name} is no list of extents")
        return list(found)

    def integers(self, name: str) -> list[int]:
        """An argument that is a list of integers."""
        found = self.any(name)
        if not isinstance(found, list | tuple) or not all(isinstance(item, int) for item in found):
            raise Uninterpreted(f"{name} is no list of integers")
        return list(found)

    def optional_integers(self, name: str) -> list[int] | None:
        """An argument that is a list of integers or None."""
        return None if self.any(name) is None else self.integers(name)

    def require_read(self) -> None:
        """Nothing, if every argument that was not read has its default."""
        for name, found in self._arguments.items():
            if name in self._read:
                continue
            default = self._defaults.get(name, _ABSENT)
            if default is _ABSENT or type(found) is not type(default) or found != default:
                raise Uninterpreted(f"argument {name}")

    def _checked(self, name: str, kind: type[Kind]) -> Kind:
        found = self.any(name)
        if not isinstance(found, kind):
            raise Uninterpreted(f"{name} is no {kind.__name__}")
        return found
