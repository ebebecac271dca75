"""A pickled module has what its class needs, of the right types; what an old torch left out is filled in."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fxhead import find_sites, load_model, rewrite
from fxpasses.errors import FileError, TraceError


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.GELU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Conv2d(4, 4, 2),
        nn.Flatten(),
        nn.LayerNorm(4),
        nn.Unflatten(1, (4,)),
        nn.Linear(4, 2),
    ).eval()


def saved(path: Path, edit: Callable[[nn.Sequential], object]) -> Path:
    model = net()
    edit(model)
    torch.save(model, path)
    return path


def without(layer: int, name: str) -> Callable[[nn.Sequential], object]:
    def edit(model: nn.Sequential) -> None:
        for place in (vars(model[layer]), model[layer]._parameters, model[layer]._buffers):
            place.pop(name, None)

    return edit


def having(layer: int, name: str, value: Any) -> Callable[[nn.Sequential], object]:
    def edit(model: nn.Sequential) -> None:
        vars(model[layer])[name] = value

    return edit


def having_weight(layer: int, weight: nn.Parameter | None) -> Callable[[nn.Sequential], object]:
    return lambda model: model[layer]._parameters.update(weight=weight)


FLAT = nn.Parameter(torch.zeros(8))


@pytest.mark.parametrize(
    ("edit", "what"),
    [
        (without(1, "num_features"), "a BatchNorm2d has no num_features"),
        (without(3, "output_size"), "a AdaptiveAvgPool2d has no output_size"),
        (without(6, "normalized_shape"), "a LayerNorm has no normalized_shape"),
        (without(7, "unflattened_size"), "a Unflatten has no unflattened_size"),
        (without(8, "weight"), "a Linear has no weight"),
        (having(0, "stride", None), "a NoneType as its stride"),
        (having(0, "kernel_size", (3, "3")), "a tuple as its kernel_size"),
        (having(0, "padding_mode", "zero"), "a str as its padding_mode"),
        (having(1, "eps", [1e-5]), "a list as its eps"),
        (having(3, "output_size", {}), "a dict as its output_size"),
        (having(5, "start_dim", 1.0), "a float as its start_dim"),
        (having(1, "_forward_hooks", None), "a NoneType as its _forward_hooks"),
        (having(1, "_non_persistent_buffers_set", ["a"]), "a list as its _non_persistent_buffers_set"),
        (having_weight(8, None), "a NoneType as its weight"),
        (having_weight(8, FLAT), "a weight of 1 dimensions"),
        (having_weight(0, FLAT), "a weight of 1 dimensions"),
        (having_weight(6, nn.Parameter(torch.zeros(2, 2))), "a weight of 2 dimensions"),
    ],
)
def test_a_module_has_what_its_class_needs(
    edit: Callable[[nn.Sequential], object], what: str, tmp_path: Path
) -> None:
    with pytest.raises(FileError, match=what):
        load_model(saved(tmp_path / "model.pt", edit))


@pytest.mark.parametrize(
    "edit",
    [
        without(2, "approximate"),
        without(5, "start_dim"),
        without(0, "_reversed_padding_repeated_twice"),
        without(1, "num_batches_tracked"),
        without(1, "_forward_hooks"),
        without(1, "_state_dict_pre_hooks"),
        having(0, "stride", 1),
        having(3, "output_size", [2, None]),
        having(3, "output_size", torch.Size([2, 2])),
        having(1, "momentum", None),
        having(0, "notes", {"kept": [1]}),
    ],
)
def test_what_old_versions_and_people_write_is_taken(
    edit: Callable[[nn.Sequential], object], tmp_path: Path
) -> None:
    model = load_model(saved(tmp_path / "model.pt", edit))
    assert isinstance(model, nn.Sequential)
    x = torch.randn(2, 3, 5, 5)
    with torch.no_grad():
        if model[3].output_size != [2, None]:
            assert torch.equal(model(x), net()(x))
    assert model[0]._reversed_padding_repeated_twice == (1, 1, 1, 1)
    assert model[1]._forward_hooks == {}


def test_modules_count_as_often_as_they_are_called(tmp_path: Path) -> None:
    model: nn.Module = nn.ReLU()
    for _ in range(14):
        model = nn.Sequential(model, model)
    torch.save(model, tmp_path / "model.pt")
    with pytest.raises(FileError, match=r"32,767 modules, more than the limit of 20,000"):
        load_model(tmp_path / "model.pt")


@pytest.mark.parametrize(
    ("layer", "name", "value"),
    [
        (3, "output_size", 0),
        (3, "output_size", (1,)),
        (4, "stride", (0, 0)),
        (4, "stride", ()),
        (4, "stride", (1, 1, 1)),
        (4, "dilation", (0, 0)),
        (4, "padding", (-1, -1)),
        (4, "groups", 0),
    ],
)
def test_numbers_that_no_layer_has_are_no_fault_of_ours(
    layer: int, name: str, value: Any, tmp_path: Path
) -> None:
    model = load_model(saved(tmp_path / "model.pt", having(layer, name, value)))
    find_sites(model, scope="all")
    rewrite(model, to="conv", scope="all")


@pytest.mark.parametrize("is_deep", [False, True])
def test_words_of_python_s_own_are_no_names_in_a_graph(is_deep: bool, tmp_path: Path) -> None:
    """In ``heads["class"]`` it is a name like any other; torch.fx writes ``self.heads.class``."""
    inner = nn.ModuleDict({"class": nn.Linear(4, 2)})
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model._modules["lambda"] = nn.Sequential(inner["class"]) if is_deep else inner["class"]
    torch.save(model, tmp_path / "model.pt")
    with pytest.raises(TraceError, match="lambda"):
        find_sites(load_model(tmp_path / "model.pt"), way="symbolic")
    with contextlib.suppress(TraceError):
        find_sites(load_model(tmp_path / "model.pt"), way="export", example_inputs=torch.zeros(2, 4, 3, 3))
