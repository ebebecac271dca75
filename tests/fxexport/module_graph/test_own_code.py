"""What a module asks of the world beside its inputs is seen, whatever it asks, and whoever asks for it."""

from __future__ import annotations

import contextvars
import cProfile
import ctypes
import datetime
import enum
import functools
import inspect
import itertools
import logging
import math
import os
import random
import re
import sys
import threading
import time
import types
import uuid
import warnings
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torch.onnx
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fxexport import Verdict, certify
from fxexport.module_graph import own_code
from fxexport.module_graph.own_code import OwnCode
from fxexport.subjects.module_subject import ModuleSubject
from fxpasses.graph.held import Held


class Asking(nn.Module):
    """A classifier with a question between its parts."""

    def __init__(self, ask: Callable[[Tensor], Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.fc = nn.Conv2d(3, 6, 3), nn.Linear(6, 4)
        self.ask = ask

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).relu()
        answer = self.ask(x)
        return self.fc((answer if isinstance(answer, Tensor) else x).mean((2, 3)))


class Early(nn.Module):
    """Asks of the input itself."""

    def __init__(self, ask: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.ask = ask

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.ask(x)
        return found


IMAGES = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def foreign(ask: Callable[[Tensor], Any]) -> str | None:
    module = Asking(ask).eval()
    with torch.no_grad(), OwnCode(Held(module)) as code:
        module(IMAGES)
    return code.foreign


class Clocks:
    """Has functions of Python's that no code of its own calls."""

    me = property(id)

    def __init__(self) -> None:
        self.now = time.time


CLOCKS, LATER = Clocks(), functools.partial(time.time)


LIBRARY_TIME = ctypes.CDLL(None).time if os.name == "posix" else time.time


def of_an_import(x: Tensor) -> None:
    """Hands on what only the import names."""
    import time as clock

    [*map(clock.localtime, [0])]


def of_its_callers(x: Tensor) -> object:
    """Asks who runs it."""
    return (frame for frame in [1]).gi_frame.f_back


def of_borrowed_names(x: Tensor) -> None:
    """Is run among the names of a file of torch's."""
    import time

    time.time()


def unseen(x: Tensor) -> None:
    """Enters and leaves what hides calls of torch."""
    with torch._C.DisableTorchFunction():
        pass


@pytest.mark.parametrize(
    ("ask", "name"),
    [
        (lambda x: time.time(), "time.time"),
        (lambda x: time.perf_counter_ns(), "time.perf_counter_ns"),
        (lambda x: datetime.datetime.now(), "datetime.now"),
        (lambda x: datetime.date.today(), "date.today"),
        (lambda x: os.environ.get("HOME"), "__getitem__"),
        (lambda x: "HOME" in os.environ, "os.__getitem__"),
        (lambda x: os.getenv("HOME"), "os.getenv"),
        (lambda x: os.getpid(), "getpid"),
        (lambda x: os.path.exists("model.pt"), "exists"),
        (lambda x: open(os.devnull).close(), "open"),
        (lambda x: id(x), "builtins.id"),
        (lambda x: hash("text"), "builtins.hash"),
        (lambda x: random.random(), "random"),
        (lambda x: random.Random(0).random(), "random"),
        (lambda x: uuid.uuid4(), "uuid.uuid4"),
        (lambda x: threading.get_ident(), "get_ident"),
        (lambda x: threading.current_thread(), "current_thread"),
        (lambda x: eval("1"), "builtins.eval"),
        (lambda x: sys._getframe(), "sys._getframe"),
        (lambda x: sys.gettrace(), "sys.gettrace"),
        (lambda x: globals(), "builtins.globals"),
        (lambda x: torch.get_num_threads(), "get_num_threads"),
        (lambda x: torch.get_default_dtype(), "get_default_dtype"),
        (lambda x: torch.initial_seed(), "initial_seed"),
        (lambda x: torch.is_inference_mode_enabled(), "is_inference_mode_enabled"),
        (lambda x: torch._C._len_torch_function_stack(), "_len_torch_function_stack"),
        (lambda x: torch._C._len_torch_dispatch_stack(), "_len_torch_dispatch_stack"),
        (lambda x: torch._guards.detect_fake_mode([x]), "detect_fake_mode"),
        (lambda x: torch.backends.cudnn.enabled, "__get__"),
        (unseen, "DisableTorchFunction"),
        (lambda x: [*map(id, [x])], "id ("),
        (lambda x: inspect.currentframe(), "_getframe"),
        (lambda x: sorted([x], key=id), "id ("),
        (lambda x: functools.reduce(lambda a, _: time.time(), [1, 2, 3]), "time.time"),
        (lambda x: next(time.time() for _ in [1]), "time.time"),
        (lambda x: checkpoint(lambda y: y * time.time(), x, use_reentrant=False), "time.time"),
        (lambda x: CLOCKS.me, "(test_own_code"),
        (lambda x: next(iter(CLOCKS.now, None)), "CLOCKS"),
        (lambda x: LATER(), "LATER"),
        (lambda x: LIBRARY_TIME(None), "LIBRARY_TIME"),
        (of_an_import, "time ("),
        (of_its_callers, "f_back"),
        (lambda x: [*itertools.starmap(torch.get_num_threads, [()])], "get_num_threads"),
        (lambda x: np.random.randint(9), "random"),
        (lambda x: np.datetime64("now"), "datetime64"),
        (lambda x: np.geterr(), "geterr"),
        (lambda x: np.get_printoptions(), "get_printoptions"),
        (types.FunctionType(of_borrowed_names.__code__, vars(nn.functional)), "time"),
    ],
)
def test_what_is_no_function_of_the_input_is_foreign(ask: Callable[[Tensor], Any], name: str) -> None:
    found = foreign(ask)
    assert found is not None
    assert name in found
    assert "(test_own_code.py, line " in found


class Mode(enum.Enum):
    """Makes members."""

    A = "a"


RELU = torch.ops.aten.relu
mT = time


@functools.lru_cache
def kept(number: int) -> float:
    return math.sqrt(number)


@pytest.mark.parametrize(
    "ask",
    [
        lambda x: math.sqrt(x.shape[1]),
        lambda x: kept(x.shape[1]),
        lambda x: sorted([3, 1], key=abs),
        lambda x: logging.getLogger("a model").warning("this is told, at %s", x.shape),
        lambda x: Mode("a") is Mode.A,
        lambda x: OrderedDict(a=1).items(),
        lambda x: dict(a=1).get("a"),
        lambda x: f"{x.dtype}".startswith("torch"),
        lambda x: [*itertools.chain([1], [2])],
        lambda x: functools.partial(torch.relu, x)(),
        lambda x: torch.jit.is_scripting() or torch.compiler.is_compiling() or torch.onnx.is_in_onnx_export(),
        lambda x: torch.is_grad_enabled() and x.requires_grad,
        lambda x: nn.functional.softmax(x @ x.mT, -1),
        lambda x: torch.ops.aten.relu(x),
        lambda x: RELU(x),
        lambda x: x.mT @ x,
        lambda x: torch.vmap(lambda y: y.relu())(x),
        lambda x: torch.fft.fft2(x).real + torch.linalg.vector_norm(x),
        lambda x: nn.Sequential(nn.ReLU(), nn.Dropout())(x),
        lambda x: torch.einsum("nchw->nhwc", x),
        lambda x: torch.zeros(x.shape, dtype=x.dtype, device=x.device) + torch.tensor([1.0]),
        lambda x: checkpoint(torch.relu, x, use_reentrant=False),
        lambda x: np.prod(x.shape) + np.sqrt(2.0) + np.arange(4).sum() + np.array([1.0]).mean(),
        lambda x: torch._C._log_api_usage_once("torchvision"),
        lambda x: x if "numpy" in sys.modules else None,
        lambda x: re.sub("a", "b", "text"),
        lambda x: inspect.signature(kept).parameters,
        lambda x: torch.finfo(x.dtype).eps + x.numel() + x.size(0),
    ],
)
def test_what_is_a_function_of_the_input_is_not(ask: Callable[[Tensor], Any]) -> None:
    assert foreign(ask) is None


def test_who_looked_at_calls_before_does_so_again() -> None:
    seen: list[str] = []
    sys.setprofile(lambda frame, event, arg: seen.append(event))
    try:
        assert foreign(lambda x: None) is None
        assert sys.getprofile() is not None
    finally:
        sys.setprofile(None)
    with cProfile.Profile() as profile:
        foreign(lambda x: None)
        kept(7)
    assert any("kept" in str(entry.code) for entry in profile.getstats())  # type: ignore[attr-defined]


def test_what_was_made_of_text_is_nobodys_but_the_models(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "torch.nn.functional_too"
    monkeypatch.setitem(sys.modules, name, home := types.ModuleType(name))
    exec("import time\nask = lambda x: time.time()", vars(home))
    assert "time" in str(foreign(home.ask))


def test_a_global_m_is_no_module_of_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    """As torch.backends has one."""
    monkeypatch.setitem(globals(), "m", "text")
    assert foreign(lambda x: x.relu()) is None


COUNTS = {"runs": 0}


def counted(x: Tensor) -> None:
    COUNTS["runs"] += 1


def listed(x: Tensor, seen: list[int] = []) -> None:  # noqa: B006 - it is what is tried
    seen.append(0)


def of_a_closure() -> Callable[[Tensor], None]:
    count = 0

    def ask(x: Tensor) -> None:
        nonlocal count
        count += 1

    return ask


class Counter:
    """Counts in its class."""

    runs = 0

    def __call__(self, x: Tensor) -> None:
        type(self).runs += 1


class Kind(type):
    """Counts for all its classes."""

    runs = 0


class OfAKind(metaclass=Kind):
    """Counts in the class of its class."""

    def __call__(self, x: Tensor) -> None:
        type(type(self)).runs += 1


class Keys(dict[str, int]):
    """A dictionary with an attribute."""

    runs = 0


def by_itself(x: Tensor) -> None:
    by_itself.runs = getattr(by_itself, "runs", 0) + 1  # type: ignore[attr-defined]


def of_two(is_first: bool) -> Callable[[Tensor], None]:
    count = 0

    def ask(x: Tensor) -> None:
        nonlocal count
        count += 1 - is_first

    return ask


FIRST, SECOND = of_two(True), of_two(False)


def both(x: Tensor) -> None:
    """Only the second counts, by the same code."""
    FIRST(x)
    SECOND(x)


KEYS, LAYER, TABLE, LONG, HELD = Keys(), nn.ReLU(), torch.zeros(1), dict.fromkeys(range(3000), 0), [Counter()]
REFERRED, HERE, NUMBER = weakref.ref(KEYS), threading.local(), contextvars.ContextVar("number", default=0)
for kept_in in (HERE, LAYER, KEYS, Mode.A):
    kept_in.runs = 0  # type: ignore[attr-defined]
OTHER = types.ModuleType("other")
OTHER.runs = 0  # type: ignore[attr-defined]


def more(of: Any) -> None:
    """One run more."""
    of.runs += 1


def of_another_file(x: Tensor) -> None:
    OTHER.runs += 1  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("ask", "name"),
    [
        (counted, "COUNTS"),
        (listed, "seen"),
        (of_a_closure(), "count"),
        (Counter(), "Counter.runs"),
        (OfAKind(), "Kind.runs"),
        (by_itself, "by_itself"),
        (both, "count"),
        (lambda x: more(type(HELD[0])), "Counter.runs"),
        (lambda x: more(Mode.A), "Mode._member_map_"),
        (of_another_file, "OTHER.runs"),
        (lambda x: more(KEYS), "KEYS"),
        (lambda x: more(REFERRED()), "REFERRED"),
        (lambda x: more(HERE), "HERE"),
        (lambda x: more(LAYER), "LAYER"),
        (lambda x: [TABLE.add_(1)], "TABLE"),
        (lambda x: NUMBER.set(NUMBER.get() + 1), "NUMBER"),
        (lambda x: LONG.update({7: LONG[7] + 1}), "LONG"),
    ],
)
def test_what_code_keeps_outside_of_its_module_is_seen(ask: Callable[[Tensor], None], name: str) -> None:
    language = ModuleSubject(Asking(ask).eval(), [IMAGES.numpy()]).language
    assert language == f"a run changes {name}, which no graph shows"


def limited(x: Tensor) -> Tensor:
    """The same up to 30, without a word about it."""
    return torch.where(x > 30, 0.0, x)


@pytest.mark.parametrize(
    ("ask", "name"),
    [
        (lambda x: limited(x) if x.shape[0] == 1 else x, "gt"),
        (lambda x: x * (1.0001 if x.shape[0] == 1 else 1.0), "mul"),
        (lambda x: x * [1.0, 1.0001][type(x) is Tensor], "mul"),
        (lambda x: x * (1.0 if isinstance(x.shape[0], int) else 1.0001), "mul"),
        (lambda x: x * x if type(x) is Tensor else x * x.detach(), "mul"),
        (lambda x: x[:, :, : (3 if type(x) is Tensor else 4)], "__getitem__"),
    ],
)
def test_a_run_that_calls_something_else_than_its_recording_is_seen(
    ask: Callable[[Tensor], Tensor], name: str
) -> None:
    subject = ModuleSubject(Asking(ask).eval(), [IMAGES.numpy()])
    assert subject.language_at_all_sizes == (
        f"a run calls other functions than what torch.export records ({name})"
    )
    own = subject.language  # where the batch is no symbol it may be what runs
    assert isinstance(own, str) or own.inputs[0].dims[0] == len(IMAGES)


class Giving(Asking):
    """Computes the same in every run, and gives the part that is asked for."""

    def forward(self, x: Tensor) -> Tensor:
        own = self.fc(self.first(x).relu().mean((2, 3)))
        other = own.clamp(max=30.0)
        return other if self.ask(x) else own


@pytest.mark.parametrize("ask", [lambda x: type(x) is Tensor, lambda x: x.shape[0] == 1])
def test_a_run_that_gives_something_else_than_its_recording_is_seen(ask: Callable[[Tensor], Any]) -> None:
    subject = ModuleSubject(Giving(ask).eval(), [IMAGES.numpy()])
    assert subject.language_at_all_sizes == (
        "a run calls other functions than what torch.export records (what is given)"
    )


def test_random_numbers_of_others_have_no_derivation() -> None:
    language = ModuleSubject(Asking(lambda x: x * np.random.rand()).eval(), [IMAGES.numpy()]).language
    assert isinstance(language, str)
    assert language.startswith("a run asks random (test_own_code.py, line ")


@pytest.mark.parametrize(
    ("ask", "how"),
    [
        (lambda x: x.clamp(max=30.0) if x.requires_grad else x, "where gradients are recorded"),
        (lambda x: x.clamp(max=30.0) if x.storage_offset() else x, "of inputs that lie otherwise in memory"),
        (
            lambda x: x.clamp(max=30.0) if x.requires_grad and not x.storage_offset() else x,
            "where gradients are recorded",
        ),
        (
            lambda x: x.clamp(max=30.0) if x.storage_offset() and not x.requires_grad else x,
            "of inputs that lie otherwise in memory",
        ),
    ],
)
def test_what_inputs_are_beside_values_has_no_derivation(ask: Callable[[Tensor], Any], how: str) -> None:
    model = nn.Sequential(OrderedDict(early=Early(ask), late=Asking(lambda x: None))).eval()
    assert ModuleSubject(model, [IMAGES.numpy()]).language == f"it calls other functions {how} (clamp)"


def test_where_gradients_are_recorded_is_no_difference() -> None:
    def inner(x: Tensor) -> Any:
        return checkpoint(torch.relu, x, use_reentrant=False)

    model = Asking(lambda x: checkpoint(inner, x, use_reentrant=False))
    assert not isinstance(ModuleSubject(model.eval(), [IMAGES.numpy()]).language, str)


def test_the_clock_has_no_derivation() -> None:
    language = ModuleSubject(Asking(lambda x: x * (time.time() > 0)).eval(), [IMAGES.numpy()]).language
    assert isinstance(language, str)
    assert language.startswith("a run asks time.time (test_own_code.py, line ")


def test_a_model_whose_graph_is_not_what_runs_is_not_broken_beside_itself() -> None:
    model = Asking(lambda x: x * (1.0001 if x.shape[0] == 1 else 1.0)).eval()
    certificate = certify(model, model, IMAGES)
    assert certificate.verdict is Verdict.AGREES, certificate.reason
    assert "no graph shows what the reference computes" in certificate.reason


def test_a_tensor_that_is_handed_on_may_be_written_to_another_number_of_times() -> None:
    def flat(x: Tensor) -> Tensor:
        y = x.contiguous()  # a copy of what lies otherwise, which was never written to
        return scaled(y.relu_() if y is x else y.relu())

    def scaled(x: Tensor) -> Tensor:
        return x * 2

    with torch.no_grad():
        runs = []
        for x in (IMAGES.clone(), IMAGES.mT.contiguous().mT):
            with OwnCode(Held(nn.Identity())) as code:
                flat(x)
            runs.append(code)
    assert runs[0].changed(runs[1]) is None


def test_tensors_that_a_run_makes_may_be_written_to_as_often_as_others() -> None:
    def kept_in_a_closure(x: Tensor) -> Tensor:
        y = x.contiguous()
        y = y.relu_() if y is x else y.relu()
        return next(y * 2 for _ in [1])

    runs = []
    for x in (IMAGES.clone(), IMAGES.mT.contiguous().mT):
        with torch.no_grad(), OwnCode(Held(nn.Identity())) as code:
            kept_in_a_closure(x)
        runs.append(code)
    assert runs[0].changed(runs[1]) is None


def test_what_cannot_be_looked_at_is_foreign_and_the_run_goes_on() -> None:
    class Odd:
        """Of no module."""

    Odd.__module__ = 3  # type: ignore[assignment]
    odd = Odd()
    found = foreign(lambda x: x if odd else None)
    assert found is not None
    assert found.startswith("what cannot be looked at, AttributeError (test_own_code.py, line ")


@pytest.mark.parametrize(
    ("ask", "name"),
    [
        (lambda x: x * (1 + x.is_inference()), "is_inference"),
        (lambda x: x * (1 + x.is_shared()), "is_shared"),
        (lambda x: x * (2 if x._version > 9 else 1), "_version"),
    ],
)
def test_where_a_tensor_comes_from_is_no_function_of_it(ask: Callable[[Tensor], Any], name: str) -> None:
    language = ModuleSubject(Asking(ask).eval(), [IMAGES.numpy()]).language
    assert language == f"a run asks for values of tensors ({name}), and no graph shows what for"


@pytest.mark.parametrize(
    ("ask", "is_shown"),
    [
        (lambda places: F.one_hot(places, 6), True),
        (lambda places: F.one_hot(places, num_classes=6), True),
        (lambda places: F.one_hot(torch.cat([places, places * 0 + 5]))[: len(places)], False),
    ],
)
def test_whether_classes_are_as_many_as_a_call_says_is_no_question(
    ask: Callable[[Tensor], Tensor], *, is_shown: bool
) -> None:
    def chosen(x: Tensor) -> Tensor:
        return x * ask(x.argmax(1)).permute(0, 3, 1, 2)

    language = ModuleSubject(Asking(chosen).eval(), [IMAGES.numpy()]).language
    assert isinstance(language, str) != is_shown
    assert is_shown or "local_scalar_dense" in str(language)


@functools.lru_cache
def remembered() -> list[int]:
    return [0]


def counted_in_what_is_remembered(x: Tensor) -> Tensor:
    remembered()[0] += 1
    return x.clamp(max=30.0) if remembered()[0] > 99 else x


def test_what_changes_in_a_functions_memory_is_seen() -> None:
    subject = ModuleSubject(Asking(counted_in_what_is_remembered).eval(), [IMAGES.numpy()])
    assert subject.language == "a run changes remembered, which no graph shows"


def test_what_torch_calls_to_order_products_is_no_code_of_a_model() -> None:
    """Which is installed beside torch, or not."""
    assert not own_code._is_own("opt_einsum.paths")


def by_computed_name(of: Any) -> None:
    """One run more, under a name that no code says."""
    name = "_".join(["runs", "kept"])
    setattr(of, name, getattr(of, name, 0) + 1)


def of_a_function(x: Tensor) -> None:
    nn.functional.relu.runs_kept = getattr(nn.functional.relu, "runs_kept", 0) + 1  # type: ignore[attr-defined]


def of_a_module_of_torchs(x: Tensor) -> None:
    torch.runs_kept = getattr(torch, "runs_kept", 0) + 1  # type: ignore[attr-defined]


def of_a_class_of_torchs(x: Tensor) -> None:
    nn.Linear.runs_kept = getattr(nn.Linear, "runs_kept", 0) + 1  # type: ignore[attr-defined]


def of_a_tensors_class(x: Tensor) -> None:
    type(x).runs_kept = getattr(type(x), "runs_kept", 0) + 1  # type: ignore[attr-defined]


def of_a_logger(x: Tensor) -> None:
    LOGGER.runs_kept = getattr(LOGGER, "runs_kept", 0) + 1  # type: ignore[attr-defined]


def of_a_level(x: Tensor) -> None:
    LOGGER.setLevel(LOGGER.level + 1)


def of_a_text(x: Tensor) -> None:
    rows.__doc__ = f"{rows.__doc__}."


def rows(x: Tensor) -> None:
    """Is told more and more."""


def in_pythons_list(x: Tensor) -> None:
    warnings.onceregistry[len(warnings.onceregistry)] = True  # type: ignore[attr-defined]


def in_a_list_of_tensors(x: Tensor) -> None:
    TENSORS.append(x)


def where_no_name_leads(x: Tensor) -> None:
    logging.getLogger("another").runs_kept = 0  # type: ignore[attr-defined]


LOGGER, TENSORS = logging.getLogger("kept"), []


@pytest.fixture
def _forgotten() -> Iterator[None]:
    yield
    for place in (torch, torch.Tensor, nn.Linear, nn.functional.relu, LOGGER):
        for name in ("runs_kept", "fc.runs_kept"):
            if name in vars(place):
                delattr(place, name)
    warnings.onceregistry.clear()  # type: ignore[attr-defined]


@pytest.mark.usefixtures("_forgotten")
@pytest.mark.parametrize(
    ("ask", "told"),
    [
        (of_a_function, "a run changes nn.functional.relu.runs_kept"),
        (of_a_module_of_torchs, "a run changes torch.runs_kept"),
        (of_a_class_of_torchs, "a run changes nn.Linear.runs_kept"),
        (of_a_tensors_class, "a run changes type(x).runs_kept"),
        (of_a_logger, "a run changes LOGGER.runs_kept"),
        (of_a_level, "a run asks logging.setLevel"),
        (of_a_text, "a run changes rows.__doc__"),
        (in_pythons_list, "a run changes warnings.onceregistry"),
        (in_a_list_of_tensors, "a run changes TENSORS"),
        (where_no_name_leads, "a run changes runs_kept (test_own_code.py"),
        (lambda x: by_computed_name(nn.Linear), "a run asks attributes of of by their names"),
        (
            lambda x: vars(nn.functional).update(runs_kept=1),
            "a run asks attributes of nn.functional by their",
        ),
    ],
)
def test_what_code_keeps_in_what_is_not_its_own_is_seen(ask: Callable[[Tensor], None], told: str) -> None:
    language = ModuleSubject(Asking(ask).eval(), [IMAGES.numpy()]).language
    assert isinstance(language, str)
    assert language.startswith(told)


class Registering(Asking):
    """Has one buffer more after each run."""

    def forward(self, x: Tensor) -> Tensor:
        self.fc.register_buffer(f"kept_{len([*self.fc.buffers()])}", torch.zeros(1), persistent=False)
        found: Tensor = super().forward(x)
        return found


def test_what_each_run_registers_is_seen() -> None:
    language = ModuleSubject(Registering(lambda x: None).eval(), [IMAGES.numpy()]).language
    assert str(language).startswith("a run changes fc.kept_")
