"""What ``convert-weights`` does not convert: it says why, writes nothing, and runs nothing of the file."""

from __future__ import annotations

import collections
import importlib
import os
import pickle
import pickletools
import random
import sys
import types
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torchvision import transforms

from checkpoints import MOVE, PLAN, Net, build, grid_plan, leaves, load, same, save, save_plan
from fxexport.untrusted.pickle_records import Global, Made
from fxhead.cli import main
from fxhead.convert.run import open_checkpoint
from fxhead.convert.survey import survey
from fxhead.loading.inert_names import unknown_names
from fxpasses import WeightOrder

Run = Callable[..., Any]


def weights(**more: Any) -> dict[str, Any]:
    return {"fc.weight": torch.randn(5, 8), "fc.bias": torch.randn(5), **more}


class Payload:
    """A pickle that would leave a file behind if anything of it were run."""

    def __reduce__(self) -> Any:
        return os.system, ("touch ran",)


def shared() -> dict[str, Any]:
    tensor = torch.randn(5, 8)
    return {"model": {"fc.weight": tensor}, "prototypes": [tensor]}


def overlapping() -> dict[str, Any]:
    kernel = torch.randn(5, 4, 2, 3)
    return {"fc.weight": kernel, "flat": kernel.view(-1)}


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "missing": (lambda: {"head.weight": torch.randn(5, 8)}, "the plan's parameter 'fc.weight' is not in it"),
    "shape": (
        lambda: weights() | {"fc.weight": torch.randn(6, 8)},
        "shape (6, 8), where the plan takes (5, 8)",
    ),
    "prefix": (
        lambda: {"a": 1, "m": {"base.fc.weight": torch.randn(5, 8), "x": torch.ones(1)}},
        "--prefix base.",
    ),
    "two roots": (
        lambda: weights() | {"model.fc.weight": torch.randn(5, 8)},
        "may belong to the model at '' or to one of its own",
    ),
    "in part": (
        lambda: {"model": weights(), "ema": {"fc.weight": torch.randn(5, 8, 1, 1)}},
        "ema/fc.weight has the conv form already",
    ),
    "mentioned twice": (shared, "'prototypes/0' is the same tensor"),
    "module": (lambda: {"model": Net()}, "holds a pickled module (checkpoints.Net) at 'model'"),
    "sparse": (lambda: {"fc.weight": torch.randn(5, 8).to_sparse()}, "of a kind that has no other form"),
    "code": (lambda: weights(x=Payload()), "it refers to what is no plain data: posix.system"),
    "class": (lambda: weights(x=collections.UserDict()), "give --allow collections.UserDict to keep it"),
    "tensor": (lambda: torch.randn(5, 8), "'fc.weight' is not in it"),
    "number": (lambda: 3, "'fc.weight' is not in it"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals(run: Run, folder: Path, written: Any, name: str) -> None:
    make, message = REFUSED[name]
    save(make(), "run.pt")
    save_plan()
    done = run("convert-weights", "run.pt", "--plan", "plan.json")
    assert done.code == 2, done.out
    assert message in done.err
    assert "Traceback" not in done.err
    assert written() == {"run.pt", "plan.json"}


def test_a_reordered_kernel_may_not_share_memory(run: Run, folder: Path) -> None:
    save(overlapping(), "run.pt")
    save_plan(grid_plan(WeightOrder.CHANNELS_LAST))
    done = run("convert-weights", "run.pt", "--plan", "plan.json", "--reverse")
    assert done.code == 2
    assert "it shares memory with 'flat'; save a clone" in done.err


def test_what_the_user_says_goes(run: Run, folder: Path) -> None:
    content = {
        "base.fc.weight": torch.randn(5, 8),
        "x": collections.UserDict(a=1),
        "fc.weight": torch.ones(5, 8),
    }
    save(content, "run.pt")
    save_plan()
    options = ("--prefix", "base.", "--allow", "collections.UserDict")
    assert run("convert-weights", "run.pt", "--plan", "plan.json", "-o", "out.pt", *options).code == 0
    after = torch.load("out.pt", weights_only=False)
    assert after["base.fc.weight"].shape == MOVE.conv_shape
    assert after["fc.weight"].shape == (5, 8)
    assert after["x"] == collections.UserDict(a=1)


def called(function: str) -> Any:
    """A pickle that calls a function of no package that is known, or of one that is."""

    class Calls:
        def __reduce__(self) -> Any:
            module, _, name = function.rpartition(".")
            return getattr(importlib.import_module(module), name), ("x",)

    return Calls()


def test_objects_that_are_not_the_model_are_copied_unmade(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A criterion with weights of its own, transforms, an enum's value, namespaces: as in a script."""
    monkeypatch.syspath_prepend(str(folder))
    (folder / "losses.py").write_text("from torch import nn\n\n\nclass Own(nn.Bilinear):\n    pass\n")
    monkeypatch.delitem(sys.modules, "losses", raising=False)
    own = importlib.import_module("losses").Own(2, 3, 4)
    content = {
        "state_dict": weights(),
        "criterion": nn.CrossEntropyLoss(label_smoothing=0.1),
        "own": own,
        "transform": transforms.Compose([transforms.Resize(8), transforms.ToTensor()]),
        "cut": slice(1, 3),
        "steps": range(3),
        "args": types.SimpleNamespace(lr=0.1),
    }
    save(content, "run.pth.tar")
    save_plan()
    done = run("convert-weights", "run.pth.tar", "--plan", "plan.json")
    assert done.code == 0, done.err
    after = torch.load("run.conv.pth.tar", weights_only=False)
    assert after["state_dict"]["fc.weight"].shape == MOVE.conv_shape
    assert torch.equal(after["own"].weight, own.weight)
    assert after["criterion"].label_smoothing == 0.1
    assert repr(after["transform"]) == repr(content["transform"])
    assert [after[key] for key in ("cut", "steps", "args")] == [slice(1, 3), range(3), content["args"]]


@pytest.mark.parametrize(
    "content",
    [
        called("torch.hub.list"),
        called("torch.serialization.load"),
        called("torch._C.PyTorchFileWriter"),
        [nn.ReLU(), nn.ReLU],
        [Net],
    ],
    ids=["function", "loader", "class of a file by its path", "class beside its object", "class"],
)
def test_what_is_called_or_named_bare_is_no_object(run: Run, folder: Path, content: Any) -> None:
    save(weights(x=content), "run.pt")
    save_plan()
    done = run("convert-weights", "run.pt", "--plan", "plan.json")
    assert (done.code, "no plain data" in done.err) == (2, True)


@pytest.mark.parametrize(
    ("module", "name", "args"),
    [
        ("torch.utils.cpp_extension", "subprocess.Popen", ()),
        ("torch.fx.graph_module", "GraphModule", ()),
        ("torch.jit", "ScriptModule", ()),
        ("some.package", "Memory", ("file",)),
        ("some.package", "memory", ()),
        ("subprocess", "Popen", ()),
    ],
)
def test_no_such_object_is_copied_unasked(module: str, name: str, args: tuple[str, ...]) -> None:
    record = Made(function=Global(module, name), args=args, is_instance=True)
    assert unknown_names([f"{module}.{name}"], [], [record]) == [f"{module}.{name}"]
    known = Made(function=Global("some.package", "Outer.Inner"), args=(), is_instance=True)
    assert unknown_names(["some.package.Outer.Inner"], [], [known]) == []


def test_what_looks_alike_is_left_and_named(run: Run, folder: Path) -> None:
    content = {"model": weights(), "teacher": {"fc.weight": torch.ones(9, 9)}, "shadow": [torch.ones(5, 8)]}
    save(content, "run.pt")
    save_plan()
    done = run("convert-weights", "run.pt", "--plan", "plan.json", "-o", "out.pt", "--json")
    assert done.document["left"] == ["teacher/fc.weight", "shadow/0"]
    assert "note: shadow/0 looks like a weight of the plan and was left as it is" in done.err
    assert load("out.pt")["shadow"][0].shape == (5, 8)


def test_of_many_that_look_alike_some_are_named(run: Run, folder: Path) -> None:
    save({"model": weights(), "shadow": [torch.ones(5, 8)] * 25}, "run.pt")
    save_plan()
    done = run("convert-weights", "run.pt", "--plan", "plan.json", "-o", "out.pt", "--json")
    assert len(done.document["left"]) == 25
    assert done.err.count("looks like a weight") == 20
    assert "note: so do 5 more; --json lists all" in done.err


@pytest.mark.parametrize("suffix", ["pt", "legacy", "safetensors"])
def test_damage_is_an_error_or_makes_no_difference(folder: Path, suffix: str, capsys: Any) -> None:
    """Truncated and flipped files: exit 2 without a traceback, or a file that torch reads as before."""
    state = build("linear").state_dict()
    path = Path(f"run.{suffix}")
    if suffix == "safetensors":
        from safetensors.torch import save_file

        save_file(state, path)
    else:
        torch.save({"model": state}, path, _use_new_zipfile_serialization=suffix == "pt")
    save_plan()
    whole = path.read_bytes()
    chance = random.Random(0)
    damaged = [whole[: chance.randrange(len(whole))] for _ in range(25)]
    for _ in range(75):
        flipped = bytearray(whole)
        flipped[chance.randrange(len(whole))] ^= 1 << chance.randrange(8)
        damaged.append(bytes(flipped))
    refused = 0
    for data in damaged:
        path.write_bytes(data)
        code = main(["convert-weights", str(path), "--plan", "plan.json", "-o", f"out.{suffix}", "--force"])
        captured = capsys.readouterr()
        assert code in (0, 2), captured.err
        assert "Traceback" not in captured.err
        refused += code == 2
        assert path.read_bytes() == data
        assert not [*folder.glob(".fxhead-*")]
    assert refused >= 25  # every truncation


def test_a_damaged_weight_is_not_copied(run: Run, folder: Path) -> None:
    save(weights(), "run.pt")
    with zipfile.ZipFile("run.pt") as archive:
        data = archive.read("archive/data/0")
    content = Path("run.pt").read_bytes()
    assert content.count(data) == 1
    Path("run.pt").write_bytes(content.replace(data, data[:-1] + bytes((data[-1] ^ 1,))))
    save_plan()
    done = run("convert-weights", "run.pt", "--plan", "plan.json", "-o", "out.pt")
    assert (done.code, "run.pt: is damaged: the checksum of 'archive/data/0' is wrong" in done.err) == (
        2,
        True,
    )
    assert not Path("out.pt").exists()


def test_files_without_checksums_are_taken(run: Run, folder: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        save(weights(), "run.pt")
    finally:
        torch.serialization.set_crc32_options(True)
    save_plan()
    assert run("convert-weights", "run.pt", "--plan", "plan.json", "-o", "out.pt").code == 0
    assert load("out.pt")["fc.weight"].shape == MOVE.conv_shape


def test_pickles_of_every_protocol(run: Run, folder: Path) -> None:
    """Newer ones have frames with lengths, and number what they remember by order."""
    save_plan()
    content = weights(other=torch.randn(5, 8), many=[torch.ones(5, 8)] * 3)
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        with open("run.pt", "wb") as file:
            torch.save(content, file, pickle_protocol=protocol)
        assert run("convert-weights", "run.pt", "--plan", "plan.json", "-o", "out.pt", "--force").code == 0
        with zipfile.ZipFile("out.pt") as archive:
            names = [code.name for code, _, _ in pickletools.genops(archive.read("archive/data.pkl"))]
        assert "FRAME" not in names  # its length would be wrong
        after = torch.load("out.pt", weights_only=False)
        assert after["fc.weight"].shape == MOVE.conv_shape
        assert same(after["other"], content["other"])
        assert after["many"][0] is after["many"][2]
        # the way back makes it shorter than its frames said
        back = ("out.pt", "--plan", "plan.json", "-o", "back.pt", "--reverse", "--force")
        assert run("convert-weights", *back).code == 0
        assert same(torch.load("back.pt", weights_only=False)["fc.weight"], content["fc.weight"])


class Twice:
    """Pickled so that two tensors share the tuples of their shapes, as torch never does but a pickle may."""

    size, stride = (5, 8), (8, 1)

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor

    def __reduce_ex__(self, _: Any) -> Any:
        storage = torch.storage.TypedStorage(
            wrap_storage=self.tensor.untyped_storage(), dtype=self.tensor.dtype, _internal=True
        )
        arguments = (storage, 0, self.size, self.stride, False, collections.OrderedDict())
        return torch._utils._rebuild_tensor_v2, arguments


@pytest.mark.parametrize("first", ["fc.weight", "other"])
def test_a_shape_that_two_tensors_share_changes_for_one(run: Run, folder: Path, first: str) -> None:
    names = [first, *({"fc.weight", "other"} - {first}), "third"]
    content = {name: torch.randn(5, 8) for name in names}
    save({name: Twice(tensor) for name, tensor in content.items()}, "run.pt")
    save_plan()
    assert run("convert-weights", "run.pt", "--plan", "plan.json", "-o", "out.pt").code == 0
    after = load("out.pt")
    for name, tensor in content.items():
        assert same(after[name], MOVE.to_conv(tensor) if name == "fc.weight" else tensor)


tensors = st.builds(
    lambda shape, dtype: torch.randn(shape).to(dtype),
    st.lists(st.integers(0, 4), max_size=4),
    st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.bool, torch.uint8]),
)
scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text())
trees = st.recursive(
    st.one_of(scalars, st.binary(min_size=1), tensors),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(st.one_of(st.text(max_size=5), st.integers(-3, 3)), inner, max_size=4),
    ),
    max_leaves=15,
)


@given(trees, trees)
@settings(max_examples=25)
def test_random_trees_keep_everything_else(tmp_path_factory: Any, before: Any, after: Any) -> None:
    folder = tmp_path_factory.mktemp("trees")
    content = {"before": before, "model": weights(), "after": [after, before]}
    path, plan = save(content, folder / "run.pt"), save_plan(path=folder / "plan.json")
    assert main(["convert-weights", str(path), "--plan", plan, "-o", str(folder / "out.pt")]) == 0
    given_, converted = dict(leaves(content)), dict(leaves(load(folder / "out.pt")))
    assert [*given_] == [*converted]
    for place, value in given_.items():
        expected = PLAN.moves[0].to_conv(value) if place == "/model/fc.weight" else value
        assert same(expected, converted[place]), place
    arguments = ["convert-weights", str(folder / "out.pt"), "--plan", plan, "--reverse"]
    assert main([*arguments, "-o", str(folder / "back.pt")]) == 0
    assert (folder / "back.pt").read_bytes() == path.read_bytes()


def test_deep_nesting_costs_no_recursion(folder: Path) -> None:
    deep = b"\x80\x02" + b"(" * 20_000 + b"t" * 20_000 + b"."
    with zipfile.ZipFile("deep.pt", "w") as archive:
        archive.writestr("archive/data.pkl", deep)
    assert survey(open_checkpoint(Path("deep.pt")).root, "deep.pt", ()).mentions == ()
