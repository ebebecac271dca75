"""``convert-weights`` on whole checkpoints: training goes on, and nothing else changes."""

from __future__ import annotations

import json
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from checkpoints import (
    MOVE,
    OPTIMIZERS,
    PLAN,
    Training,
    build,
    grid_plan,
    leaves,
    load,
    same,
    save,
    save_plan,
)
from fxpasses import WeightMove, WeightOrder, WeightPlan

Run = Callable[..., Any]
STEPS = 20
TOLERANCE = 1e-10


@pytest.fixture
def convert(run: Run, folder: Path) -> Callable[..., Any]:
    """Converts a file of the working directory to ``out.pt``, which must work."""
    save_plan()

    def call(name: str, *options: str, plan: str = "plan.json", out: str = "out.pt") -> Any:
        done = run("convert-weights", name, "--plan", plan, "-o", out, "--force", "--json", *options)
        assert done.code == 0, done.out + done.err
        return done.document

    return call


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(("form", "other"), [("linear", "conv"), ("conv", "linear")])
def test_training_goes_on_in_the_other_form(convert: Run, form: str, other: str, optimizer: str) -> None:
    training = Training(build(form), optimizer)
    training.run(5)
    save(training.checkpoint(), "run.pt")
    convert("run.pt", *(("--reverse",) if form == "conv" else ()))
    resumed = Training(build(other), optimizer).resume(load("out.pt", mmap=True))
    expected, actual = training.run(STEPS), resumed.run(STEPS)
    assert max(abs(a - b) / abs(a) for a, b in zip(expected, actual, strict=True)) <= TOLERANCE
    assert len({*expected}) == STEPS
    direction = PLAN if other == "conv" else PLAN.invert()
    one = dict(leaves(training.checkpoint()))
    two = dict(leaves(resumed.checkpoint()))
    assert [*one] == [*two]
    averaged = "/model_ema/module.fc.weight"
    assert one[averaged].shape == MOVE.shape(direction.source)
    assert two[averaged].shape == MOVE.shape(direction.to)
    assert (one[averaged].flatten() - two[averaged].flatten()).abs().max() <= TOLERANCE


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("container", ["zip", "legacy"])
def test_only_the_weights_change_and_the_way_back_gives_the_file(
    convert: Run, optimizer: str, container: str
) -> None:
    training = Training(build("linear"), optimizer)
    training.run(3)
    path = save(training.checkpoint(), "run.pt")
    if container == "legacy":
        torch.save(training.checkpoint(), path, _use_new_zipfile_serialization=False)
    document = convert("run.pt")
    before, after = dict(leaves(load("run.pt"))), dict(leaves(load("out.pt")))
    assert [*before] == [*after]
    changed = {place for place in before if not same(before[place], after[place])}
    assert changed == {"/" + tensor["place"] for tensor in document["converted"]}
    moments = {"sgd": 1, "adamw": 3}[optimizer]
    assert len(changed) == 2 + moments
    for place in changed:
        assert same(PLAN.moves[0].to_conv(before[place]), after[place])
    convert("out.pt", "--reverse", out="back.pt")
    assert Path("back.pt").read_bytes() == path.read_bytes()
    convert("run.pt", out="again.pt")
    assert Path("again.pt").read_bytes() == Path("out.pt").read_bytes()


def test_the_archive_is_one_that_torch_writes(convert: Run) -> None:
    """Torch can load it by computed offsets, and its id is the one that torch gives the same records."""
    training = Training(build("linear"), "adamw")
    training.run(1)
    save(training.checkpoint(), "run.pt")
    convert("run.pt")
    from torch.utils.serialization import config

    expected = dict(leaves(load("out.pt")))
    with config.patch("load.calculate_storage_offsets", True):
        computed = dict(leaves(load("out.pt", mmap=True)))
    assert all(same(expected[place], computed[place]) for place in expected)
    with zipfile.ZipFile("out.pt") as archive, Path("out.pt").open("rb") as file:
        assert archive.testzip() is None
        for info in archive.infolist():
            file.seek(info.header_offset + 26)
            name, extra = (int.from_bytes(file.read(2), "little") for _ in range(2))
            assert (info.header_offset + 30 + name + extra) % 64 == 0
        identity = archive.read("archive/.data/serialization_id")
        records = [(i.filename.removeprefix("archive/"), archive.read(i)) for i in archive.infolist()]
    writer = torch._C.PyTorchFileWriter("written.pt")
    for name, data in records:
        if name not in ("version", ".data/serialization_id"):
            writer.write_record(name, data, len(data))
    writer.write_end_of_file()
    with zipfile.ZipFile("written.pt") as archive:
        assert archive.read("written/.data/serialization_id") == identity


def test_safetensors_keep_metadata_and_order(convert: Run) -> None:
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    state = build("linear").state_dict()
    save_file(state, "model.safetensors", metadata={"format": "pt", "note": 'é "quoted"'})
    convert("model.safetensors", out="out.safetensors")
    with safe_open("out.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt", "note": 'é "quoted"'}
    for name, tensor in load_file("out.safetensors").items():
        expected = MOVE.to_conv(state[name]) if name == "fc.weight" else state[name]
        assert same(tensor, expected)
    convert("out.safetensors", "--reverse", out="back.safetensors")
    assert Path("back.safetensors").read_bytes() == Path("model.safetensors").read_bytes()


def lightning(state: dict[str, Any], optimizer: Any) -> dict[str, Any]:
    """As ``lightning.pytorch``'s CheckpointConnector.dump_checkpoint writes it."""
    return {
        "epoch": 2,
        "global_step": 30,
        "pytorch-lightning_version": "2.5.0",
        "state_dict": OrderedDict((f"model.{name}", tensor) for name, tensor in state.items()),
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"total": {"ready": 3}}}},
        "callbacks": {"ModelCheckpoint{'monitor': None}": {"best_model_score": torch.tensor(0.5)}},
        "optimizer_states": [optimizer],
        "lr_schedulers": [{"last_epoch": 2, "_last_lr": [0.1]}],
        "hparams_name": "kwargs",
        "hyper_parameters": {"lr": 0.1},
    }


PREFIXED = {
    "plain": lambda state: state,
    "data parallel": lambda state: {f"module.{k}": v for k, v in state.items()},
    "compiled": lambda state: {"state_dict": {f"_orig_mod.{k}": v for k, v in state.items()}},
    "both": lambda state: {"net": {f"module._orig_mod.{k}": v for k, v in state.items()}},
    "averaged": lambda state: {"n_averaged": torch.tensor(3), **{f"module.{k}": v for k, v in state.items()}},
    "attribute": lambda state: {"state_dict": {f"backbone.{k}": v for k, v in state.items()}},
    "timm": lambda state: {"state_dict": state, "state_dict_ema": dict(state), "arch": "net", "metric": 0.1},
    "list": lambda state: {"snapshots": [state, (1, {"weights": dict(state)})]},
}


@pytest.mark.parametrize("wrapping", PREFIXED)
def test_state_dicts_are_found_wherever_they_are(convert: Run, wrapping: str) -> None:
    content = PREFIXED[wrapping](dict(build("linear").state_dict()))
    save(content, "run.pt")
    convert("run.pt")
    before, after = dict(leaves(content)), dict(leaves(load("out.pt")))
    weights = [place for place in before if place.endswith("fc.weight")]
    assert weights
    for place, value in before.items():
        assert same(MOVE.to_conv(value) if place in weights else value, after[place]), place


def test_lightning_checkpoints(convert: Run) -> None:
    training = Training(build("linear"), "adamw")
    training.run(2)
    content = lightning(training.model.state_dict(), training.optimizer.state_dict())
    save(content, "run.ckpt")
    places = [tensor["place"] for tensor in convert("run.ckpt")["converted"]]
    assert places[0] == "state_dict/model.fc.weight"
    assert [place.rpartition("/")[2] for place in places[1:]] == ["exp_avg", "exp_avg_sq", "max_exp_avg_sq"]
    assert {place.rpartition("/")[0] for place in places[1:]} == {"optimizer_states/0/state/4"}


@pytest.mark.parametrize(
    "dtype", [torch.bfloat16, torch.float16, torch.int8, torch.float8_e4m3fn, torch.complex64]
)
def test_dtypes_sharing_and_parameters_are_kept(convert: Run, dtype: torch.dtype) -> None:
    storage = (torch.arange(200) % 100).to(dtype)
    weight = storage[7:47].view(5, 8)
    content = {
        "fc.weight": weight if dtype is torch.int8 else nn.Parameter(weight, requires_grad=dtype.is_complex),
        "part.weight": storage[100:140].view(5, 8),
        "fc.bias": storage[3:8],
        "strided": storage[::3],
    }
    save(content, "run.pt")
    convert("run.pt")
    after = load("out.pt")
    assert same(MOVE.to_conv(content["fc.weight"].detach()), after["fc.weight"].detach())
    assert type(after["fc.weight"]) is type(content["fc.weight"])
    assert after["fc.weight"].requires_grad == content["fc.weight"].requires_grad
    assert len({tensor.untyped_storage().data_ptr() for tensor in after.values()}) == 1
    assert [t.storage_offset() for t in after.values()] == [t.storage_offset() for t in content.values()]
    assert all(same(content[name], after[name]) for name in ("part.weight", "fc.bias", "strided"))


def test_transposed_and_tied_weights(convert: Run) -> None:
    weight = torch.arange(40.0).view(8, 5).t()
    moves = (MOVE, WeightMove(name="tied.weight", linear_shape=(5, 8), conv_shape=(5, 8, 1, 1)))
    save_plan(WeightPlan(to=PLAN.to, moves=moves))
    save({"fc.weight": weight, "tied.weight": weight}, "run.pt")
    convert("run.pt")
    after = load("out.pt")
    assert after["fc.weight"] is after["tied.weight"]
    assert same(MOVE.to_conv(weight), after["fc.weight"])


@pytest.mark.parametrize("container", ["zip", "legacy", "safetensors"])
@pytest.mark.parametrize("order", WeightOrder)
@pytest.mark.parametrize("channels_last", [True, False], ids=["channels_last", "contiguous"])
def test_kernels_that_need_another_order(
    convert: Run, container: str, order: WeightOrder, channels_last: bool
) -> None:
    plan = grid_plan(order)
    save_plan(plan)
    kernel = torch.randn(5, 4, 2, 3)
    if channels_last and container != "safetensors":
        kernel = kernel.to(memory_format=torch.channels_last)
    content = {"first": torch.randn(7), "fc.weight": kernel, "last": torch.randn(3)}
    name = "run.safetensors" if container == "safetensors" else "run.pt"
    if container == "safetensors":
        from safetensors.torch import load_file, save_file

        save_file(content, name)
        read = load_file
    else:
        torch.save(content, name, _use_new_zipfile_serialization=container == "zip")
        read = load
    done = convert(name, "--reverse", out=f"linear-{name}")
    after = read(f"linear-{name}")
    is_copy = (order is WeightOrder.CHANNELS_LAST) != kernel.is_contiguous(memory_format=torch.channels_last)
    assert (done["converted"][0]["copied_bytes"] > 0) == is_copy
    assert same(plan.moves[0].to_linear(kernel), after["fc.weight"])
    assert same(content["first"], after["first"])
    assert same(content["last"], after["last"])
    convert(f"linear-{name}", out=f"conv-{name}")
    back = read(f"conv-{name}")["fc.weight"]
    assert torch.equal(back, kernel)


def test_exit_code_1_where_there_is_nothing_to_do(run: Run, folder: Path, written: Any) -> None:
    save_plan()
    save(build("conv").state_dict(), "run.pt")
    done = run("convert-weights", "run.pt", "--plan", "plan.json")
    assert done.code == 1
    assert "nothing to convert: it has the conv form already" in done.out
    assert written() == {"run.pt", "plan.json"}


def test_names_of_what_is_written(run: Run, folder: Path) -> None:
    save_plan()
    state = build("linear").state_dict()
    save(state, "run.pth")
    assert run("convert-weights", "run.pth", "--plan", "plan.json").code == 0
    assert run("convert-weights", "run.conv.pth", "--plan", "plan.json", "--reverse").code == 0
    assert Path("run.linear.pth").read_bytes() == Path("run.pth").read_bytes()
    again = run("convert-weights", "run.pth", "--plan", "plan.json")
    assert (again.code, "exists already" in again.err) == (2, True)
    same_file = run("convert-weights", "run.pth", "--plan", "plan.json", "-o", "run.pth", "--force")
    assert (same_file.code, "overwrite the input" in same_file.err) == (2, True)
    save(state, "best.pth.tar")
    assert run("convert-weights", "best.pth.tar", "--plan", "plan.json").code == 0
    assert Path("best.conv.pth.tar").exists()
    Path("sub").mkdir()
    assert run("convert-weights", "run.pth", "--plan", "plan.json", "-o", "sub").code == 0
    assert Path("sub/run.conv.pth").exists()
    assert json.loads(Path("plan.json").read_text()) == PLAN.to_dict()
