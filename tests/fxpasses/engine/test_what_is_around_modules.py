"""Modules that compute or store something else than their class, and weights in modules that nobody calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fxpasses import rewrite
from fxpasses.errors import InputError

MAPS = torch.randn(2, 4, 5, 5, generator=torch.Generator().manual_seed(0))
FORMS = ("conv", "dense", "fcn")


class Net(nn.Module):
    """A classifier of modules."""

    def __init__(self) -> None:
        super().__init__()
        self.pool, self.flat, self.drop = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout()
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.drop(self.flat(self.pool(x))))


def doubled(module: nn.Module) -> None:
    module.register_forward_hook(lambda _module, _args, result: result * 2)


def before(module: nn.Module) -> None:
    module.register_forward_pre_hook(lambda _module, args: (args[0] * 2,))


def wrapped(module: nn.Module) -> None:
    inner = module.forward
    module.forward = lambda x: inner(x) * 2  # type: ignore[method-assign]


def with_key(module: nn.Module) -> None:
    module.register_state_dict_post_hook(
        lambda _module, found, prefix, _meta: found.update({f"{prefix}more": torch.zeros(1)})
    )


def empty(module: nn.Module) -> None:
    module.weight, module.bias = nn.Parameter(torch.zeros(0, 4)), nn.Parameter(torch.zeros(0))


AROUND: dict[str, tuple[str, Callable[[nn.Module], Any]]] = {
    **{f"a hook of the {name}": (name, doubled) for name in ("pool", "flat")},
    **{f"a hook before the {name}": (name, before) for name in ("pool", "flat")},
    **{f"a forward of the {name}'s own": (name, wrapped) for name in ("pool", "flat", "head")},
    "a key that a hook adds": ("head", with_key),
    "no classes": ("head", empty),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", AROUND)
def test_what_is_around_a_module_stays(name: str, form: str) -> None:
    path, put = AROUND[name]
    model = Net().eval()
    put(model.get_submodule(path))
    made = rewrite(model, to=form, example_inputs=(MAPS,)).module
    torch.testing.assert_close(made(MAPS).flatten(1), model(MAPS))
    assert [*made.state_dict()] == [*model.state_dict()]


@pytest.mark.parametrize("inputs", [None, (MAPS,)], ids=["presumed", "run"])
@pytest.mark.parametrize(("put", "code"), [(doubled, "HOOKED"), (wrapped, "SUBCLASS")])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("path", ["pool", "flat", "drop"])
def test_a_miss_names_what_is_around_a_module(
    path: str, form: str, put: Callable[[nn.Module], Any], code: str, inputs: Any
) -> None:
    model = Net().eval()
    put(model.get_submodule(path))
    report = rewrite(model, to=form, example_inputs=inputs).report
    if path in ("flat", "drop") and form == "conv" and inputs:
        assert len(report.rewrites) == 1  # the head behind it is one all the same
        return
    (miss,) = report.misses
    assert miss.code == code
    assert miss.reason.startswith(f"{path!r} (")
    assert "remove" in miss.fix


class WithState(Net):
    """A classifier that saves more than its tensors."""

    def get_extra_state(self) -> int:
        return 1

    def set_extra_state(self, state: Any) -> None: ...


@pytest.mark.parametrize("way", ["symbolic", "export"])
@pytest.mark.parametrize(
    ("kind", "put", "key"),
    [(WithState, None, "_extra_state"), (Net, with_key, "more")],
    ids=["class", "hook"],
)
def test_what_a_model_itself_saves_is_not_lost(kind: type[Net], put: Any, key: str, way: str) -> None:
    model = kind().eval()
    if put is not None:
        put(model)
    with pytest.raises(InputError, match=rf"{kind.__name__}: .* would not keep: {key}, "):
        rewrite(model, to="conv", example_inputs=(MAPS,), way=way)


def test_a_hook_that_saves_nothing_more_is_no_error() -> None:
    model = Net().eval()
    model.register_state_dict_post_hook(lambda *_: None)
    assert rewrite(model, to="conv").report.rewrites


def test_a_state_dict_that_cannot_be_read_is_told() -> None:
    model = Net().eval()
    model.register_state_dict_post_hook(lambda *_: {}["nothing"])
    with pytest.raises(InputError, match="cannot be read"):
        rewrite(model, to="conv")


class Held(nn.Module):
    """A classifier whose weight lies in a module that it does not call, or only for something else."""

    def __init__(self, holder: nn.Module, name: str, *, calls: bool = False) -> None:
        super().__init__()
        self.holder, self.name, self.calls = holder, name, calls

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        scores = F.linear(x.mean((2, 3)), getattr(self.holder, self.name))
        return (scores, self.holder(x.amax((2, 3)))) if self.calls else (scores,)


HOLDERS: dict[str, Callable[[], tuple[nn.Module, str]]] = {
    "a list": lambda: (nn.ParameterList([torch.randn(3, 4)]), "0"),
    "a layer": lambda: (nn.Linear(4, 3), "weight"),
    "an embedding": lambda: (nn.Embedding(3, 4), "weight"),
}


def require_same(model: nn.Module, made: nn.Module) -> None:
    for expected, given in zip(model(MAPS), made(MAPS), strict=True):
        torch.testing.assert_close(given.flatten(1), expected)
    assert [*made.state_dict()] == [*model.state_dict()]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", HOLDERS)
def test_a_weight_in_a_module_that_nobody_calls(name: str, form: str) -> None:
    model = Held(*HOLDERS[name]()).eval()
    made = rewrite(model, to=form, example_inputs=(MAPS,))
    assert len(made.report.rewrites) == 1
    require_same(model, made.module)
    require_same(model, rewrite(made.module, to="linear", example_inputs=(MAPS,)).module)


@pytest.mark.parametrize("form", FORMS)
def test_a_weight_in_a_module_that_is_called_stays(form: str) -> None:
    model = Held(nn.Linear(4, 3), "weight", calls=True).eval()
    require_same(model, rewrite(model, to=form, example_inputs=(MAPS,)).module)
