"""What a fold hands on of errors: no less than the operator's slope, and next to no more."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from fxexport.language.fold_rules import CHOICES, LARGEST, RULES, SMALLEST, UNIT, Folded, NotFolded
from fxexport.language.term import Array, numpy_type

PAIR = (np.array([0.5, -2.0, 3.0]), np.array([1.5, 0.25, -4.0]))
ONE = (np.array([0.5, 1.25, 3.0]),)
ROWS = (np.array([[0.5, -2.0, 3.0], [1.0, 4.0, -0.25]]), np.array([[1.5, 0.25, -4.0]]))
WIDE = (ROWS[0],)
CASES: dict[str, tuple[str, tuple[object, ...], tuple[Array, ...]]] = {
    "add": ("add", (), PAIR),
    "mul": ("mul", (), PAIR),
    "neg": ("neg", (), ONE),
    "root": ("pow", ("0.5",), ONE),
    "inverse root": ("pow", ("-0.5",), ONE),
    "inverse": ("pow", ("-1.0",), (PAIR[0],)),
    "cube": ("pow", ("3.0",), (PAIR[0],)),
    "power of operands": ("pow", (), (ONE[0], PAIR[1])),
    "exp": ("exp", (), PAIR[:1]),
    "sigmoid": ("sigmoid", (), PAIR[:1]),
    "tanh": ("tanh", (), PAIR[:1]),
    "sin": ("sin", (), PAIR[:1]),
    "cos": ("cos", (), PAIR[:1]),
    "sum": ("reduce", ("sum", 1), WIDE),
    "mean": ("reduce", ("mean", 1), WIDE),
    "dot": ("dot", (1,), ROWS),
    "flip": ("flip", (), WIDE),
    "take": ("take", (1, 1, 2), WIDE),
}
"""The operator, its attributes, and what it reads."""
TINY = 2.0**-40


def folded(value: Array, **off: float) -> Folded:
    """Elements that are all off by the same."""
    named = {name: np.full(value.shape, off.get(name, 0.0)) for name in ("error", "defined", "step")}
    return Folded(value=value, **named)


def computed(name: str, operands: list[Folded], unit: float = 0.0) -> Folded:
    """What the rule gives, without a rounding of its own unless there is a unit."""
    operator, attributes, _ = CASES[name]
    return RULES[operator][0](operands, attributes, unit)


def slope(name: str, place: int) -> Array:
    """By how much each element moves if every element of one operand moves as far as it can, for each."""
    values = CASES[name][2]
    total: Array = np.zeros(())
    for index in np.ndindex(values[place].shape):
        ends = []
        for sign in (1, -1):
            moved = [value.copy() for value in values]
            moved[place][index] += sign * 2.0**-20
            ends.append(computed(name, [folded(value) for value in moved]).value)
        total = total + np.abs(ends[0] - ends[1]) * 2.0**19
    return total


@pytest.mark.parametrize("field", ["error", "defined", "step"])
@pytest.mark.parametrize("name", CASES)
def test_an_operand_that_is_off_takes_the_result_along(name: str, field: str) -> None:
    values = CASES[name][2]
    for place in range(len(values)):
        operands = [folded(value, **({field: TINY} if k == place else {})) for k, value in enumerate(values)]
        found = getattr(computed(name, operands), field) / TINY
        due = slope(name, place)
        assert np.all((0.999 * due <= found) & (found <= 1.02 * due + 1e-6)), (found, due)


@pytest.mark.parametrize("name", ["sum", "mean", "dot"])
def test_sums_round_as_often_as_they_add(name: str) -> None:
    """Each addition rounds, and one product or quotient; the largest of them by a unit of the whole."""
    values, unit = CASES[name][2], 2.0**-24
    sizes = [folded(np.abs(value)) for value in values]
    whole = computed(name, sizes).value
    found = computed(name, [folded(value) for value in values], unit)
    np.testing.assert_allclose(found.error, 4 * unit * whole)
    np.testing.assert_allclose(found.step, unit * whole)
    assert not found.defined.any()


@pytest.mark.parametrize("base", [-8.0, 0.0])
def test_no_power_of_what_is_not_positive_is_folded(base: float) -> None:
    """Runtimes have it by a logarithm, or by the exponent's being whole."""
    with pytest.raises(NotFolded):
        RULES["pow"][0]([folded(np.array([base, 2.0])), folded(np.array([3.0, 3.0]))], (), 0.0)


@pytest.mark.parametrize("name", ["prod", "l1", "logsumexp", ""])
def test_no_other_reduction_is_a_sum(name: str) -> None:
    with pytest.raises(NotFolded, match="a reduction by"):
        RULES["reduce"][0]([folded(WIDE[0])], (name, 1), 0.0)


@pytest.mark.parametrize("field", ["error", "defined"])
@pytest.mark.parametrize("name", CHOICES)
def test_nothing_is_chosen_among_computed_numbers(name: str, field: str) -> None:
    """A rounding may have moved one across another."""
    count = {"not": 1, "where": 3}.get(name, 2)
    operands = [folded(value) for value in (*ONE, *PAIR)[:count]]
    assert RULES[name][0](operands, (), 0.0).is_exact
    off = [*operands[:-1], folded(operands[-1].value, **{field: TINY})]
    with pytest.raises(NotFolded, match="a choice among computed numbers"):
        RULES[name][0](off, (), 0.0)


def test_float64_is_off_only_where_it_computes() -> None:
    """By a share of what the type is off, and by the roundings of its own."""
    given, made = folded(ONE[0]), folded(ONE[0], defined=TINY)
    assert not given.noise("float32").any()
    share = TINY * UNIT["float64"] / UNIT["float32"]
    np.testing.assert_array_equal(made.noise("float32"), share + 4 * UNIT["float64"] * np.abs(ONE[0]))


def test_a_last_axis_of_one_cell_is_none() -> None:
    assert RULES["take"][0]([folded(WIDE[0])], (0, 1, 1), 0.0).value.shape == (2,)
    assert RULES["take"][0]([folded(WIDE[0])], (0, 1, 2), 0.0).value.shape == (2, 2)


@pytest.mark.parametrize("name", UNIT)
def test_types_are_as_their_libraries_have_them(name: str) -> None:
    found = ml_dtypes.finfo(numpy_type(name))
    assert UNIT[name] == float(found.eps) / 2
    assert SMALLEST[name] == float(found.smallest_subnormal)
    assert LARGEST.get(name, float(found.max)) == float(found.max)
