from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fxexport.subjects.samples import InputSpec
from fxhead.inputs.input_shapes import ShapeOrigin
from fxhead.inputs.shapes import find_shapes, parse_shape
from fxhead.inputs.specs import require_known
from fxhead.source import Source
from fxpasses import rewrite
from fxpasses.errors import InputError

CALLABLE = Source.parse("nets:build")


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ("1x3x224x224", (1, 3, 224, 224)),
        ("1X3X8", (1, 3, 8)),
        ("2,10", (2, 10)),
        ("1×3×4×4", (1, 3, 4, 4)),
    ],
)
def test_a_shape_is_read(text: str, shape: tuple[int, ...]) -> None:
    assert parse_shape(text) == shape


@pytest.mark.parametrize(
    "text", ["", "3", "x", "1x3x", "1x-3x4", "1x0x4", "axb", "1x3.5x2", "1x²x3", "1 3 4"]
)
def test_what_is_no_shape_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="1x3x224x224") as caught:
        parse_shape(text)
    assert caught.value.where == "--input-shape"


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("resnet18", (1, 3, 224, 224)),
        ("inception_v3", (1, 3, 299, 299)),
        ("efficientnet_b1", (1, 3, 240, 240)),
        ("r3d_18", (1, 3, 16, 112, 112)),
        ("s3d", (1, 3, 16, 224, 224)),
    ],
)
def test_torchvision_says_its_own(name: str, shape: tuple[int, ...]) -> None:
    from torchvision.models import get_model

    options = {"init_weights": False} if name == "inception_v3" else {}
    found = find_shapes(get_model(name, **options).eval(), Source.parse(f"torchvision:{name}"))
    assert (found.shapes, found.origin) == ((shape,), ShapeOrigin.METADATA)


class ImageSize(nn.Sequential):
    """A model whose weights on offer are for 518×518, made for 224×224 itself."""

    image_size = 224


def test_what_the_model_says_goes_before_what_its_weights_say() -> None:
    module = ImageSize(nn.Conv2d(3, 8, 3))
    found = find_shapes(module, Source.parse("torchvision:vit_h_14"))
    assert found.shapes == ((1, 3, 224, 224),)


class Cifar(nn.Module):
    """A model that 224×224 runs through, folded into the batch axis, and 32×32 fits."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 16, 3, stride=8, padding=1)
        self.fc = nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(F.avg_pool2d(self.conv(x), 4).view(-1, 16))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (nn.Sequential(nn.Conv2d(4, 8, 3), nn.AdaptiveAvgPool2d(1)), (1, 4, 224, 224)),
        (nn.Sequential(nn.Conv1d(2, 8, 3), nn.AdaptiveAvgPool1d(1)), (1, 2, 224)),
        (nn.Sequential(nn.Conv3d(1, 8, 3), nn.AdaptiveAvgPool3d(1)), (1, 1, 16, 112, 112)),
        (
            nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.Flatten(), nn.Linear(2 * 28 * 28, 5)),
            (1, 1, 28, 28),
        ),
        (nn.Sequential(nn.Linear(7, 5)), (1, 7)),
        (Cifar(), (1, 1, 32, 32)),
    ],
    ids=["2d", "1d", "3d", "28x28", "linear", "folded"],
)
def test_the_first_layer_gives_a_guess(module: nn.Module, shape: tuple[int, ...]) -> None:
    found = find_shapes(module.eval(), CALLABLE)
    assert (found.shapes, found.origin) == ((shape,), ShapeOrigin.GUESSED)


class HeadFirst(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc, self.conv = nn.Linear(8, 5), nn.Conv2d(3, 8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.conv(x).mean((2, 3)))  # type: ignore[no-any-return]


def test_the_first_layer_of_a_graph_is_the_one_that_is_called_first() -> None:
    module = rewrite(HeadFirst().eval(), to="conv").module
    assert isinstance(next(iter(module.children())), nn.Conv2d)  # the head's
    assert find_shapes(module, CALLABLE).shapes == ((1, 3, 224, 224),)


@pytest.mark.parametrize(("shape", "told"), [((16, None), "1x16x224"), (None, "1x3x224x224")])
def test_the_option_is_shown_with_what_is_known(shape: tuple[int | None, ...] | None, told: str) -> None:
    with pytest.raises(InputError, match=f"--input-shape {told}$"):
        require_known([InputSpec(name="x", shape=shape, dtype="float32")], CALLABLE)


def test_a_model_that_says_nothing_needs_the_option() -> None:
    with pytest.raises(InputError, match="--input-shape 1x3x224x224"):
        find_shapes(nn.ReLU(), CALLABLE)


def test_a_given_shape_that_does_not_fit_is_refused() -> None:
    module = nn.Sequential(nn.Conv2d(3, 8, 3))
    with pytest.raises(InputError, match=r"does not take an input of 1x4x9x9"):
        find_shapes(module, CALLABLE, [(1, 4, 9, 9)])


class FixedBatch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x.mean((2, 3)).view(1, -1))


def test_a_fixed_batch_is_told_from_a_wrong_shape(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match="takes a batch of 1 but not of 2"):
        find_shapes(FixedBatch(), CALLABLE, [(1, 3, 8, 8)])
    with pytest.raises(InputError, match="does not take an input of 1x3x8"):
        find_shapes(FixedBatch(), CALLABLE, [(1, 3, 8)])
    assert capfd.readouterr().err == ""  # torch would log a traceback for every try


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Conv2d(3, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x if x.sum() > 0 else -x)


def test_control_flow_on_values_says_nothing_against_a_given_shape() -> None:
    assert find_shapes(Branching(), CALLABLE, [(1, 3, 8, 8)]).shapes == ((1, 3, 8, 8),)
    with pytest.raises(InputError, match="does not say"):
        find_shapes(Branching(), CALLABLE)


def test_a_given_shape_is_taken() -> None:
    found = find_shapes(nn.Sequential(nn.Conv2d(3, 8, 3)), CALLABLE, [(1, 3, 9, 9)])
    assert (found.shapes, found.origin) == (((1, 3, 9, 9),), ShapeOrigin.GIVEN)


class Caching(nn.Module):
    """Keeps what its first forward computed, as position tables do."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 2)
        self.cache: torch.Tensor | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.cache is None:
            self.cache = torch.arange(4.0)
        return self.fc(x + self.cache)  # type: ignore[no-any-return]


def test_trying_out_leaves_the_model_as_it_was() -> None:
    module = Caching()
    find_shapes(module, CALLABLE)
    assert module.cache is None
    assert type(module.fc.weight) is nn.Parameter


def test_a_lazy_model_is_refused() -> None:
    with pytest.raises(InputError, match="not initialised"):
        find_shapes(nn.Sequential(nn.LazyConv2d(3, 3)), CALLABLE)


def test_examples_are_the_same_in_every_run_and_have_the_model_s_dtype() -> None:
    found = find_shapes(nn.Sequential(nn.Linear(3, 2)).double(), CALLABLE)
    (first,), (again,) = found.examples(5), found.examples(5)
    assert first.dtype == torch.float64
    assert first.shape == (5, 3)
    assert torch.equal(first, again)


TABLES: dict[int, torch.Tensor] = {}


class Remembering(nn.Module):
    """Keeps a table in its file, by the number of channels."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = TABLES.setdefault(x.shape[1], torch.ones(x.shape[1]))
        return x.mean((2, 3)) * found


def test_a_trial_keeps_nothing_beside_the_model() -> None:
    find_shapes(Remembering().eval(), CALLABLE, [(1, 3, 8, 8)])
    assert not TABLES
