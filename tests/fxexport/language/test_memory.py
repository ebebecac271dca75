"""A module that holds something else after a run is read where that makes no difference, and only there."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from fxexport import Verdict, certify
from fxexport.subjects.module_subject import ModuleSubject

Tensor = torch.Tensor


class Box:
    """An object of a class of one's own."""

    def __init__(self) -> None:
        self.kept: Any = None


class Net(nn.Module):
    """A classifier of which ``act`` makes the scores."""

    def __init__(self, act: Callable[[Any, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 4)
        self.table = nn.Parameter(torch.tensor([1.5, 0.5, 2.0]))
        self.register_buffer("places", torch.tensor([0, 2, 1]))
        self.kept: Any = None
        self._kept: Any = None
        self.cache: dict[str, Any] = {}
        self.parts: list[Any] = []
        self.box, self.space = Box(), SimpleNamespace(kept=None)
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self, x, self.fc(x.mean((2, 3))))


Make = Callable[[Any, Tensor], Any]


def in_attribute(make: Make, name: str = "kept", of: str = "") -> Callable[[Any, Tensor, Tensor], Tensor]:
    def act(net: Any, x: Tensor, scores: Tensor) -> Tensor:
        home = getattr(net, of) if of else net
        if getattr(home, name) is None:
            setattr(home, name, make(net, x))
        return scores * getattr(home, name)

    return act


def by_key(make: Make, key: Callable[[Tensor], str] = lambda x: str(x.device)) -> Any:
    def act(net: Any, x: Tensor, scores: Tensor) -> Tensor:
        if key(x) not in net.cache:
            net.cache[key(x)] = make(net, x)
        return scores * net.cache[key(x)]  # type: ignore[no-any-return]

    return act


def in_list(make: Make) -> Callable[[Any, Tensor, Tensor], Tensor]:
    def act(net: Any, x: Tensor, scores: Tensor) -> Tensor:
        if not net.parts:
            net.parts.append(make(net, x))
        return scores * net.parts[0]  # type: ignore[no-any-return]

    return act


def gathered(net: Any, _: Tensor) -> Tensor:
    """As attention biases are kept for each device."""
    return net.table[net.places].sum()  # type: ignore[no-any-return]


def is_bright(_: Any, x: Tensor) -> Tensor:
    return 1 + (x.amax() > 100).float()


def shown(net: Any, x: Tensor, scores: Tensor) -> Tensor:
    net.kept, net._kept = scores.softmax(1), x.shape
    return scores


def shown_and_read(net: Any, x: Tensor, scores: Tensor) -> Tensor:
    before, net.kept = net.kept, is_bright(net, x)
    return scores if before is None else scores * before  # type: ignore[no-any-return]


def other_first(net: Any, x: Tensor, scores: Tensor) -> Tensor:
    if net.kept is None:
        net.kept = torch.ones(())
        return scores * is_bright(net, x)
    return scores * net.kept  # type: ignore[no-any-return]


def other_later(net: Any, x: Tensor, scores: Tensor) -> Tensor:
    if net.kept is None:
        net.kept = is_bright(net, x)
        return scores
    return scores * net.kept  # type: ignore[no-any-return]


def counted(net: Any, _: Tensor, scores: Tensor) -> Tensor:
    if net.kept is None:
        net.kept = torch.zeros(())
    net.kept += 1
    return scores * (1 + (net.kept > 1000).float())  # type: ignore[no-any-return]


def written_through_a_view(net: Any, x: Tensor) -> Tensor:
    made = torch.ones(4)
    made[1:2] = x.amax()
    return made


HONEST = {
    "an attribute": in_attribute(gathered),
    "a private one": in_attribute(gathered, "_kept"),
    "by device": by_key(gathered),
    "a list": in_list(lambda *_: torch.arange(4.0)),
    "an object": in_attribute(gathered, of="box"),
    "a namespace": in_attribute(gathered, of="space"),
    "what nobody reads": shown,
}
DISHONEST = {
    "the first input": in_attribute(lambda _, x: x.mean()),
    "the first input, rarely": in_attribute(is_bright),
    "the first input, by a private name": in_attribute(is_bright, "_kept"),
    "the first input, by device": by_key(is_bright),
    "the first input, in an object": in_attribute(is_bright, of="box"),
    "the first input, in a list": in_list(is_bright),
    "the first input, through a view": in_attribute(written_through_a_view),
    "the first batch": in_attribute(lambda _, x: torch.tensor(2.0 if len(x) > 100 else 1.0)),
    "the first size": in_attribute(lambda _, x: 1 / x.shape[2]),
    "the first size, rarely": in_attribute(lambda _, x: torch.tensor(2.0 if x.shape[2] > 100 else 1.0)),
    "what is drawn once": in_attribute(lambda *_: torch.rand(())),
    "the input before": shown_and_read,
    "a count in place": counted,
    "another first run": other_first,
    "other later runs": other_later,
}


def images(count: int = 8) -> Tensor:
    return torch.randn(count, 3, 6, 6, generator=torch.Generator().manual_seed(0))


def subject_of(act: Callable[[Any, Tensor, Tensor], Tensor]) -> ModuleSubject:
    return ModuleSubject(nn.Sequential(Net(act)).eval(), [images().numpy()])


@pytest.mark.parametrize("kind", HONEST)
def test_what_is_the_same_after_every_first_run_is_a_constant(kind: str) -> None:
    assert not isinstance(subject_of(HONEST[kind]).language_at_all_sizes, str)


@pytest.mark.parametrize("kind", DISHONEST)
def test_what_a_run_decides_for_others_is_none(kind: str) -> None:
    found = subject_of(DISHONEST[kind]).language
    assert isinstance(found, str)
    assert "a run changes" in found


def test_a_cache_that_was_filled_before_is_part_of_the_model() -> None:
    net = Net(in_attribute(is_bright)).eval()
    net(images())
    assert not isinstance(ModuleSubject(net, [images().numpy()]).language, str)


def test_a_model_is_proved_before_its_first_run_too() -> None:
    def plain(net: Any, x: Tensor, scores: Tensor) -> Tensor:
        return scores * gathered(net, x)

    first, second = (nn.Sequential(Net(act)) for act in (by_key(gathered), plain))  # in training, too
    second.load_state_dict(first.state_dict())
    certificate = certify(second, first, images())
    assert certificate.verdict is Verdict.PROVED, certificate.reason
