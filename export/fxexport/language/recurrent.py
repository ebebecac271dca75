"""Recurrent layers: one direction of one layer is one operator over a whole sequence, in both dialects."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from fxexport.language.constants import exact_array
from fxexport.language.extents import divided
from fxexport.language.foreign import foreign
from fxexport.language.moves import concatenate, reshape, select, take, unsqueeze
from fxexport.language.term import Terms, Uninterpreted, Value


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Direction:
    """One direction of a layer, its gates in torch's order.

    Attributes:
        weights: of the inputs ``[G·H, I]`` and of the state ``[G·H, H]``.
        biases: the same for both, ``[G·H]``; None where there are none.
        state: what it starts from, ``[N, H]`` each; None for zeros.
        is_reverse: whether it starts at the last step.

    Source:
        ``torch.nn.LSTM`` and ``GRU``; ONNX's operators of these names.
    """

    weights: tuple[Value, Value]
    biases: tuple[Value | None, Value | None]
    state: tuple[Value | None, ...]
    is_reverse: bool


def layer(
    terms: Terms, kind: str, value: Value, directions: Sequence[Direction]
) -> tuple[Value, list[list[Value]]]:
    """A layer over ``value[T, N, I]``: its outputs ``[T, N, D·H]``, and the last states of each direction.

    Raises:
        Uninterpreted: it is of another type or rank than any library computes alike.
    """
    if value.dtype != "float32" or value.rank != 3:
        raise Uninterpreted("a sequence in half precision, or without batch")
    given, states = [], []
    for own in directions:
        rows, width = value.shape[1], own.weights[1].shape[1]
        last = [(value.dtype, (rows, width))] * len(own.state)
        kinds = [(value.dtype, (value.shape[0], rows, width)), *last]
        operands = [value, *own.weights, *own.biases, *own.state]
        key = "recurrent", kind, own.is_reverse
        outputs, *state = foreign(terms, key, operands, kinds, is_random=False)
        given.append(outputs)
        states.append(state)
    return concatenate(terms, given, 2), states


def together(terms: Terms, states: Sequence[Sequence[Value]]) -> list[Value]:
    """The last states ``[D, N, H]``, one value for each kind of state."""
    return [
        concatenate(terms, [unsqueeze(item, [0]) for item in kind], 0) for kind in zip(*states, strict=True)
    ]


def by_direction(terms: Terms, outputs: Value, count: int) -> Value:
    """Outputs ``[T, N, D·H]`` as ONNX has them: ``[T, D, N, H]``."""
    steps, rows, width = outputs.shape
    each = divided(width, count)
    if each is None:
        raise Uninterpreted("outputs of several widths")
    return reshape(terms, outputs, [steps, rows, count, each]).permuted([0, 2, 1, 3])


def started(terms: Terms, state: Value | None, place: int) -> Value | None:
    """What one direction starts from, of ``[D, N, H]``; None for zeros."""
    array = None if state is None else state.term.array
    return (
        None if state is None or (array is not None and not array.any()) else select(terms, state, 0, place)
    )


def reordered(terms: Terms, value: Value | None, order: Sequence[int]) -> Value | None:
    """Gates ``[G·H, …]`` in another order; None for none, or for zeros."""
    stored = None if value is None else exact_array(value)
    if value is None or (stored is not None and not stored.any()):
        return None
    height = divided(value.shape[0], len(order))
    if not isinstance(height, int):
        raise Uninterpreted("gates of several heights")
    return concatenate(terms, [take(terms, value, 0, gate * height, 1, height) for gate in order], 0)
