"""What is honest loads without being trusted: library models, and everything that fxhead itself writes."""

from __future__ import annotations

import argparse
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import nn
from torchvision.models import regnet

from fxexport import Verdict
from fxexport.untrusted.allowed import Allowed
from fxexport.untrusted.functions import find_function, is_attribute, is_method
from fxexport.untrusted.pickle_records import Global
from fxhead import certify, load_model, save_model
from fxpasses import rewrite
from fxpasses.errors import FileError, InputError
from zoo import ENTRIES, SPELLINGS, Entry, build
from zoo.compare import leaves

Run = Callable[..., Any]

LIBRARY: dict[str, Callable[[], nn.Module]] = {
    name: (lambda name=name: torchvision.models.get_model(name, num_classes=5))  # type: ignore[misc]
    for name in ("mobilenet_v3_small", "squeezenet1_1", "shufflenet_v2_x0_5", "mnasnet0_5")
} | {
    "vision transformer": lambda: torchvision.models.VisionTransformer(32, 16, 1, 2, 16, 32),
    "swin": lambda: torchvision.models.SwinTransformer([4, 4], 16, [1, 1], [2, 2], [4, 4]),
    "regnet": lambda: regnet.RegNet(regnet.BlockParams([1, 2], [8, 16], [8, 8], [1.0, 1.0], [2, 2]), 5),
    "densenet": lambda: torchvision.models.DenseNet(8, (1, 1), 8),
    "googlenet": lambda: torchvision.models.GoogLeNet(num_classes=5, init_weights=False),
    **{
        name: (lambda name=name: timm.create_model(name, num_classes=5))  # type: ignore[misc]
        for name in ("test_resnet", "test_byobnet", "test_convnext", "test_efficientnet", "test_vit")
    },
}


def _equal(first: Any, second: Any) -> bool:
    pairs = zip(leaves(first), leaves(second), strict=True)
    return all(torch.equal(one, other) for one, other in pairs)


@pytest.mark.parametrize("name", LIBRARY)
def test_models_of_torchvision_and_timm_need_no_permission(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = LIBRARY[name]().eval()
    torch.save(model, tmp_path / "model.pt")
    loaded = load_model(tmp_path / "model.pt")
    assert type(loaded) is type(model)
    x = torch.randn(1, 3, 32, 32) if name in ("vision transformer", "swin") else torch.randn(1, 3, 64, 64)
    if name == "test_vit":
        x = torch.randn(1, 3, 160, 160)
    with torch.no_grad():
        assert _equal(loaded(x), model(x))  # type: ignore[operator]


def _without_trust(model: nn.Module, path: Path) -> torch.fx.GraphModule:
    save_model(model, path, force=True)
    loaded = load_model(path, allow=[NAMED_TUPLE])
    assert isinstance(loaded, torch.fx.GraphModule)
    return loaded


# of the spellings, which are many and alike, every fourth
SOME = [entry for index, entry in enumerate(ENTRIES) if entry not in SPELLINGS or index % 4 == 0]
NAMED_TUPLE = "zoo.structures.LogitsAndFeatures"


@pytest.mark.parametrize("entry", SOME, ids=lambda entry: entry.name)
def test_what_a_rewrite_gives_is_read_back_without_running_its_source(entry: Entry, tmp_path: Path) -> None:
    """Every spelling of the zoo: node for node what was written, and the outputs of torch's own way."""
    path = tmp_path / "model.pt"
    written = rewrite(
        build(entry), to=entry.other_form, scope=entry.scope, example_inputs=entry.example_inputs()
    ).module
    loaded = _without_trust(written, path)
    assert [(n.name, n.op, n.target) for n in loaded.graph.nodes] == [
        (n.name, n.op, n.target) for n in written.graph.nodes
    ]
    assert loaded.code == written.code
    plain = torch.load(path, weights_only=False)
    assert list(loaded.state_dict()) == list(written.state_dict())
    inputs = entry.inputs(max(entry.batches))
    assert _equal(loaded(*inputs), plain(*inputs))


def test_there_and_back_gives_the_original_graph(tmp_path: Path) -> None:
    """The records of a rewrite survive the file: the way back is exact, not only equal."""
    model = torchvision.models.mobilenet_v3_small(num_classes=5).eval()
    there = _without_trust(rewrite(model, to="conv").module, tmp_path / "conv.pt")
    back = _without_trust(rewrite(there, to="linear").module, tmp_path / "back.pt")
    original = rewrite(rewrite(model, to="conv").module, to="linear").module
    assert back.code == original.code
    assert _equal([*back.state_dict().values()], [*model.state_dict().values()])


@pytest.mark.parametrize(
    "name",
    ["torch.load", "torch.save", "torch.from_file", "torch.hub.load", "torch.ops.aten.save.default",
     "torch.ops.aten.from_file.default", "torch.ops.image.read_file.default", "torch.serialization.load",
     "torch.compile", "torch.jit.load", "torch.classes.load_library", "os.system", "builtins.eval", "getattr",
     "operator.attrgetter", "operator.methodcaller", "operator.call", "operator.setitem", "torch.nn.Linear",
     "torch.Tensor", "torch.__import__", "torch.ops.aten._print.default", "math.__loader__",
     "torch.manual_seed", "torch.ops.torchvision.deform_conv2d.default", "torch.nn.functional.importlib",
     "torch.nn.functional.handle_torch_function", "torch._C._nn._parse_to", "torch._C._linalg.__loader__"],
)  # fmt: skip
def test_no_other_function_may_be_called(name: str) -> None:
    assert find_function(name) is None


@pytest.mark.parametrize(
    "name",
    ["max_pool2d_with_indices_backward.default", "max_pool3d_with_indices_backward.default",
     "adaptive_max_pool2d_backward.default", "nll_loss_backward.default", "nll_loss2d_backward.default",
     "ctc_loss.IntList", "ctc_loss.Tensor", "segment_reduce.default", "sparse_coo_tensor.indices_size",
     "sparse_compressed_tensor.comp_plain_value_size", "fbgemm_linear_int8_weight.default",
     "mkldnn_rnn_layer.default", "special_laguerre_polynomial_l.x_scalar"],
)  # fmt: skip
def test_kernels_that_trust_the_indices_they_are_given_are_not_called(name: str) -> None:
    """Those of gradients and losses write where a file's tensor says: the process ends, or does worse."""
    function, _, overload = name.partition(".")
    assert overload in getattr(torch.ops.aten, function).overloads()
    assert find_function(f"torch.ops.aten.{name}") is None
    assert find_function(f"torch.{function}") is None
    assert find_function(f"torch._C._nn.{function}") is None
    assert not is_method(function)


@pytest.mark.parametrize(
    "name",
    ["torch.flatten", "torch.nn.functional.relu", "torch._C._nn.gelu", "operator.add", "math.floor",
     "torch.ops.aten.linear.default", "torch.ops.aten.gelu.default", "torch.ops.aten.div.Tensor_mode"],
)  # fmt: skip
def test_computations_may_be_called(name: str) -> None:
    assert callable(find_function(name))


def test_methods_and_attributes_only_compute() -> None:
    assert all(map(is_method, ("view", "flatten", "mean", "size", "permute", "relu_")))
    assert not any(map(is_method, ("numpy", "tofile", "apply_", "map_", "register_hook", "share_memory_",
                                   "__reduce_ex__", "backward", "set_", "storage", "data_ptr")))  # fmt: skip
    assert all(map(is_attribute, ("shape", "dtype")))
    assert not any(map(is_attribute, ("__class__", "grad_fn", "__dict__", "data", "_backward_hooks")))


# --- --allow and --trust ---------------------------------------------------------------------------


def test_a_class_of_one_s_own_is_named_then_allowed(run: Run, net: Path) -> None:
    refused = run("inspect", "model.pt", "--allow", "other.Net")
    assert refused.code == 2
    assert "needs nets.Net; give --allow nets.Net if you wrote that" in refused.err
    assert run("inspect", "model.pt", "--allow", "nets.Net").code == 0


def test_an_allowed_class_allows_no_other(net: Path, folder: Path) -> None:
    nets = __import__("nets")
    model = nets.Net()
    model.extra = nets.NoHead()
    torch.save(model, "model.pt")
    with pytest.raises(FileError, match=r"needs nets\.NoHead"):
        load_model("model.pt", allow=["nets.Net"])
    assert isinstance(load_model("model.pt", allow=["nets.Net", "nets.NoHead"]), nn.Module)


@pytest.mark.parametrize("name", ["os.system", "nets.build", "torch.load"])
def test_a_function_cannot_be_allowed(name: str, net: Path, folder: Path) -> None:
    module, _, function = name.rpartition(".")
    model = nn.Linear(2, 3)
    model.function = getattr(__import__(module), function)
    torch.save(model, "model.pt")
    shown = "posix.system" if name == "os.system" else name.replace("torch.load", "torch.serialization.load")
    with pytest.raises(InputError, match="is no class"):
        load_model("model.pt", allow=[shown])


def test_a_package_stands_for_its_own_classes_and_not_for_what_it_imports(net: Path, folder: Path) -> None:
    assert type(load_model("model.pt", allow=["nets"])).__name__ == "Net"
    allowed = Allowed(extra=frozenset({"nets"}))
    assert allowed.find_class(Global("nets", "Net")) is not None
    assert allowed.find_class(Global("netsuite", "Net")) is None
    with pytest.raises(InputError, match=r"nets\.nn\.Linear is torch\.nn\.modules\.linear\.Linear"):
        allowed.find_class(Global("nets", "nn.Linear"))


def test_of_many_classes_the_package_is_named(net: Path, folder: Path, run: Run) -> None:
    nets = __import__("nets")
    names = ("One", "Two", "Three", "Four")
    parts = [type(name, (nn.ReLU,), {"__module__": "nets"})() for name in names]
    for name, part in zip(names, parts, strict=True):
        setattr(nets, name, type(part))
    torch.save(nn.Sequential(nn.Linear(2, 2), *parts), "model.pt")
    done = run("inspect", "model.pt", "--allow", "other.Net")
    assert "give --allow nets if you wrote that" in done.err


def test_plain_data_of_python_is_kept(folder: Path) -> None:
    model = nn.Sequential(nn.Linear(2, 3))
    kept = [slice(1, 3), range(2, 9, 3), types.SimpleNamespace(a=[1]), argparse.Namespace(lr=0.1)]
    model.kept = kept
    torch.save(model, "model.pt")
    assert load_model("model.pt").kept == kept
    model.kept = types.SimpleNamespace(**{"__class__": 3})
    torch.save(model, "model.pt")
    with pytest.raises(FileError, match="attribute called '__class__'"):
        load_model("model.pt")


@pytest.mark.parametrize("name", ["meta", "_fxhead_undo"])
def test_what_a_module_has_under_the_names_of_a_graph_is_its_own(folder: Path, name: str) -> None:
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 3))
    setattr(model, name, [1])
    torch.save(model, "model.pt")
    loaded = load_model("model.pt")
    assert getattr(loaded, name) == [1]
    assert rewrite(loaded, to="conv").report.rewrites
    assert certify(loaded, model, torch.rand(8, 2, 3, 3)).verdict is Verdict.PROVED


def test_a_note_of_the_class_s_name_is_kept(folder: Path) -> None:
    model = nn.Sequential(nn.Linear(2, 3))
    model.type = "package.Sequential"
    torch.save(model, "model.pt")
    assert load_model("model.pt").type == "package.Sequential"
    model.type = nn.ReLU()
    torch.save(model, "model.pt")
    with pytest.raises(FileError, match="in place of its type"):
        load_model("model.pt")


def test_trust_unpickles_and_says_so(run: Run, net: Path) -> None:
    done = run("inspect", "model.pt", "--trust", "--allow", "other.Net")
    assert done.code == 0
    assert "runs whatever code is in it" in done.err


# --- as a library ------------------------------------------------------------------------------------


def test_save_model_follows_the_command_line_s_rules(tmp_path: Path) -> None:
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))
    path = save_model(model, tmp_path / "new" / "model.pt")
    assert isinstance(load_model(path), nn.Sequential)
    with pytest.raises(FileError, match="exists already; give force=True"):
        save_model(model, path)
    before = path.read_bytes()
    save_model(model, path, force=True)
    assert path.read_bytes() == before
    program = torch.export.export(model.eval(), (torch.randn(2, 3, 4, 4),))
    assert isinstance(load_model(save_model(program, tmp_path / "model.pt2")), torch.export.ExportedProgram)
    for value, name in ((model, "model.pt2"), (program, "model.pt"), (model, "model.onnx"), (model, "model")):
        with pytest.raises(InputError, match="is not saved as"):
            save_model(value, tmp_path / name)
    assert sorted(entry.name for entry in tmp_path.rglob("*")) == ["model.pt", "model.pt2", "new"]


def test_the_same_program_gives_the_same_bytes(tmp_path: Path) -> None:
    contents = set()
    for name in ("one.pt2", "another.pt2"):
        torch.manual_seed(0)
        model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2)).eval()
        save_model(torch.export.export(model, (torch.randn(2, 3, 4, 4),)), tmp_path / name)
        contents.add((tmp_path / name).read_bytes())
    assert len(contents) == 1


def test_a_named_tuple_of_one_s_own_has_to_be_allowed(tmp_path: Path) -> None:
    save_model(rewrite(build("named_tuple"), to="conv").module, tmp_path / "model.pt")
    with pytest.raises(FileError, match=r"calls zoo\.structures\.LogitsAndFeatures.*--allow"):
        load_model(tmp_path / "model.pt")
    assert isinstance(load_model(tmp_path / "model.pt", allow=[NAMED_TUPLE]), nn.Module)
