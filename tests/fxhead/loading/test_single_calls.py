"""Small files of which one call of a library would make gigabytes, or end the process: measured before it."""

from __future__ import annotations

import contextlib
import os
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from fxexport import certify
from fxexport.onnx_dialect.content import Content
from fxexport.onnx_dialect.rewrite import rewrite_content
from fxexport.onnx_graph import wire
from fxexport.onnx_graph.shapes import with_shapes
from fxexport.providers import Session
from fxexport.subjects.samples import InputSpec, random_samples
from fxexport.untrusted.allowed import Allowed
from fxexport.untrusted.archive import open_archive
from fxexport.untrusted.inline import require_bounded
from fxexport.untrusted.limits import (
    MAX_ARGUMENT_BYTES,
    MAX_DECODED_BYTES,
    MAX_DIRECTORY_BYTES,
    MAX_FAN,
    MAX_MESSAGE_BYTES,
)
from fxexport.untrusted.plain_json import read_plain_json
from fxhead import find_sites, load_model, rewrite
from fxhead.inputs.hub_images import timm_preset
from fxhead.inputs.input_shapes import InputShapes, ShapeOrigin
from fxhead.loading.recognise import FileKind, recognise
from fxhead.loading.state_dicts import read_state
from fxpasses.errors import FxHeadError
from fxpasses.report import Form, Scope
from fxpasses.wall import clock
from fxpasses.wall.clock import SlowError, in_budget
from hostile import edited_program, graph_module

Run = Callable[..., Any]


@pytest.mark.parametrize("name", ["evil.pt2", "evil.safetensors"])
def test_json_is_measured_before_it_is_parsed(name: str, run: Run, folder: Path) -> None:
    """A megabyte that unpacks to 250 of ``{},`` would be six gigabytes, in a call that nothing ends."""
    text = b'{"a": [' + b"{}," * 5_100_000 + b"0]}"
    Path(name).write_bytes(struct.pack("<Q", len(text)) + text)
    if name == "evil.pt2":

        def change(members: dict[str, bytes]) -> None:
            members[next(path for path in members if path.endswith("models/model.json"))] = text

        edited_program(folder, change).replace(name)
    done = run("inspect", name, "--arch" if name != "evil.pt2" else "--scope", "all")
    assert done.code == 2, done.err
    with pytest.raises(ValueError, match="more than the limit of 10,000,000 values"):
        read_plain_json(text.decode())


def test_source_text_has_a_limit(run: Run, folder: Path) -> None:
    done = run("inspect", str(graph_module(folder, "y = x\n" + "    y = x\n" * 350_000)))
    assert done.code == 2, done.err
    assert "longer than the limit" in done.err


def test_one_text_of_a_pickle_has_a_limit(tmp_path: Path) -> None:
    """A file that is a hole would be read as a text of three gigabytes."""
    path = tmp_path / "evil.pt"
    path.write_bytes(b"\x80\x02}X" + struct.pack("<I", MAX_ARGUMENT_BYTES + 1))
    os.truncate(path, MAX_ARGUMENT_BYTES + 100)
    with pytest.raises(FxHeadError, match="above the limit of 268,435,456 bytes"):
        load_model(path)


def test_weights_of_the_old_format_are_read_block_by_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One call that reads three gigabytes is past every limit before anybody can end it."""
    weights = {"a": torch.arange(1 << 20, dtype=torch.float32), "b": torch.zeros(0), "c": torch.ones(3)}
    torch.save(weights, tmp_path / "w.pth", _use_new_zipfile_serialization=False)
    monkeypatch.setattr("fxexport.untrusted.tensors._BLOCK_BYTES", 1_000_001)
    tracemalloc.start()
    try:
        state = read_state(recognise(tmp_path / "w.pth"), Allowed(), ema=False, note=print)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert all(torch.equal(state[name], tensor) for name, tensor in weights.items())
    assert most < 1 << 20, "a copy was made outside of torch"


def test_a_zip_s_directory_has_a_limit(tmp_path: Path) -> None:
    entry = b"PK\1\2" + struct.pack("<6H3I5H2I", 20, 20, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0) + b"a"
    count = MAX_DIRECTORY_BYTES // len(entry) + 1
    path, size = tmp_path / "evil.pt", count * len(entry)
    end = struct.pack("<4H2IH", 0, 0, count & 0xFFFF, count & 0xFFFF, size, 30, 0)
    path.write_bytes(b"PK\3\4" + bytes(26) + entry * count + b"PK\5\6" + end)
    with pytest.raises(FxHeadError, match="directory has more than the limit"):
        open_archive(path, "evil.pt")


def test_a_file_has_few_fields(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m"
    monkeypatch.setattr("fxhead.loading.recognise.MAX_FIELDS", 1000)
    path.write_bytes(b"\x08\x01" * 998 + b"\x3a\x00")
    assert recognise(path).kind is FileKind.ONNX
    path.write_bytes(b"\x08\x01" * 1001 + b"\x3a\x00")
    with pytest.raises(FxHeadError, match="not a file that"):
        recognise(path)


@pytest.mark.parametrize(
    ("size", "what"), [(MAX_MESSAGE_BYTES, "more than 2 GiB"), (MAX_DECODED_BYTES, "beside its weights")]
)
def test_an_onnx_file_has_a_limit_with_its_weights_and_without(tmp_path: Path, size: int, what: str) -> None:
    """A field that nobody knows, and which is a hole, was copied several times."""
    graph = _one_node(helper.make_node("Relu", ["x"], ["y"])).SerializeToString()
    (tmp_path / "evil.onnx").write_bytes(graph + wire.head(15, size))
    os.truncate(tmp_path / "evil.onnx", len(graph + wire.head(15, size)) + size)
    with pytest.raises(FxHeadError, match=what):
        find_sites(tmp_path / "evil.onnx")


def test_what_a_rewrite_gives_is_asked_for_before_it_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a hole, gigabytes were joined, and read again, in calls that nothing ends."""
    weight = helper.make_tensor("w", TensorProto.FLOAT, [1 << 21, 4], bytes(1 << 25), raw=True)
    nodes = [helper.make_node("Flatten", ["x"], ["f"]), helper.make_node("Gemm", ["f", "w"], ["y"], transB=1)]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", None]) for name in "xy")
    onnx.save(helper.make_model(helper.make_graph(nodes, "g", [x], [y], [weight])), tmp_path / "e.onnx")
    monkeypatch.setattr(clock, "_BYTES_PER_BYTE", 0)  # as a hole has none
    monkeypatch.setattr(clock, "MAX_BYTES", 1 << 26)
    tracemalloc.start()
    try:
        with pytest.raises(SlowError, match=r"limit of 0\.0671 GB of memory"):
            rewrite(tmp_path / "e.onnx", "conv")
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 1 << 25


def test_weights_are_asked_for_before_a_session_packs_them() -> None:
    weights = {"w": np.broadcast_to(np.zeros(1, np.float32), (1 << 30,))}
    with pytest.raises(SlowError, match="GB of memory"), in_budget():
        Session(b"", "cpu", weights)


@pytest.mark.parametrize("extents", [[1 << 14, 1 << 14, 3], [1 << 12, 1 << 14, 3]], ids=["any", "rows"])
def test_values_are_measured_before_a_runtime_makes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, extents: list[int]
) -> None:
    """A hundred bytes said it, and ONNX Runtime took three gigabytes."""
    is_rows = extents[0] < 1 << 14
    nodes = [
        helper.make_node("Unsqueeze" if is_rows else "ReduceMean", ["x", *["axes"] * is_rows], ["u"]),
        helper.make_node("Expand", ["u", "to"], ["e"]),
        helper.make_node("ReduceMax", ["e"], ["y"]),
    ]
    stored = [
        helper.make_tensor("axes", TensorProto.INT64, [2], [1, 2]),
        helper.make_tensor("to", TensorProto.INT64, [3 + is_rows], [*[1] * is_rows, *extents]),
    ]
    x, y = helper.make_tensor_value_info("x", 1, ["n", 3]), helper.make_tensor_value_info("y", 1, None)
    graph, opset = helper.make_graph(nodes, "g", [x], [y], stored), helper.make_opsetid("", 18)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=10), tmp_path / "e.onnx")
    runs: list[object] = []

    def run(self: Session, inputs: object) -> tuple[object, ...]:
        runs.append(inputs)
        return (np.zeros((1, 3)),) * len(self.output_names)

    monkeypatch.setattr(Session, "run", run)
    with pytest.raises(SlowError, match="GB of memory"):
        certify(tmp_path / "e.onnx", tmp_path / "e.onnx", providers=("cpu",))
    assert not any(len(inputs[0]) > 2 for inputs in runs)


def test_samples_are_no_larger_than_a_limit() -> None:
    shape = (1, 3, 30_000, 30_000)
    shapes = InputShapes(shapes=(shape,), dtypes=(torch.float32,), origin=ShapeOrigin.METADATA)
    with pytest.raises(FxHeadError, match="more than 1 GiB"):
        shapes.examples(2)
    with pytest.raises(FxHeadError, match="more than 1 GiB"):
        random_samples([InputSpec(name="x", shape=shape[1:], dtype="float32")], 1, 0)
    with pytest.raises(ValueError, match="lie between"):  # which readers of folders and modules explain
        timm_preset({"input_size": shape[1:]})


def _one_node(
    node: onnx.NodeProto, *constants: int, dims: tuple[int | str, ...] = ("n", 3)
) -> onnx.ModelProto:
    graph = helper.make_graph(
        [node], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, dims)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [helper.make_tensor(f"c{at}", TensorProto.INT64, [], [value]) for at, value in enumerate(constants)],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


@pytest.mark.parametrize("bounds", [(0, 1 << 45, 1), (0, 9, 0)], ids=str)
def test_a_range_is_not_written_out(bounds: tuple[int, ...]) -> None:
    model = _one_node(helper.make_node("Range", ["c0", "c1", "c2"], ["t"]), *bounds)
    model.graph.node.append(helper.make_node("Reshape", ["x", "t"], ["y"]))
    assert with_shapes(model).graph.node[0].op_type == "Range"


def test_shapes_have_a_limit_of_memory() -> None:
    """ONNX would write down 2**45 numbers, 1.5 s of which are the limit."""
    model = _one_node(helper.make_node("ConstantOfShape", ["s"], ["t"]))
    model.graph.initializer.append(helper.make_tensor("s", TensorProto.INT64, [1], [1 << 45]))
    model.graph.node.append(helper.make_node("Cast", ["t"], ["y"], to=TensorProto.FLOAT))
    with pytest.raises(onnx.shape_inference.InferenceError, match="more memory"):
        with_shapes(model)


@pytest.mark.parametrize("is_handed_on", [False, True])
@pytest.mark.parametrize(
    "node",
    [
        helper.make_node("LayerNormalization", ["x", "x"], ["y"], axis=1 << 31),
        helper.make_node("GatherND", ["x", "x"], ["y"], batch_dims=-9),
    ],
    ids=lambda node: node.op_type,
)
def test_an_axis_is_one(node: onnx.NodeProto, is_handed_on: bool) -> None:
    """ONNX's inference of shapes would write outside of its memory."""
    model = _one_node(node)
    if is_handed_on:
        inner, (given,) = onnx.NodeProto(), node.attribute
        inner.CopyFrom(node)
        inner.attribute[0].ClearField("i")
        inner.attribute[0].ref_attr_name = "k"
        function = helper.make_function("own", "f", ["x"], ["y"], [inner], list(model.opset_import), ["k"])
        model = _one_node(helper.make_node("f", ["x"], ["y"], domain="own", k=given.i))
        model.functions.append(function)
    with pytest.raises(ValueError, match="no tensor has such an axis"):
        require_bounded(model)


@pytest.mark.parametrize("kind", ["q_num_heads", "block_size"])
def test_nothing_is_counted_by_a_number_that_runtimes_cut_in_half(kind: str) -> None:
    """ONNX Runtime divides by the lower half of 2**36, which is 0."""
    require_bounded(_one_node(helper.make_node("Attention", ["x"] * 3, ["y"], **{kind: (1 << 31) - 1})))
    require_bounded(_one_node(helper.make_node("Shape", ["x"], ["y"], end=(1 << 63) - 1)))
    with pytest.raises(ValueError, match="nothing has so many"):
        require_bounded(_one_node(helper.make_node("Attention", ["x"] * 3, ["y"], **{kind: 1 << 36})))


@pytest.mark.parametrize("dims", [[-2, -2], [0, 1 << 62, 1 << 62], [1 << 60], [1] * 70], ids=str)
@pytest.mark.parametrize("is_inner", [False, True])
def test_a_tensor_has_a_shape(dims: list[int], is_inner: bool) -> None:
    """NumPy and torch fail on these with errors of their own, each with another one."""
    tensor = TensorProto(name="t", data_type=TensorProto.FLOAT, dims=dims, raw_data=bytes(16))
    model = _one_node(helper.make_node("ConstantOfShape", ["x"], ["y"], value=tensor))
    if not is_inner:
        model.graph.initializer.append(tensor)
        del model.graph.node[0].attribute[:]
    with pytest.raises(ValueError, match="'t' is of a shape that no tensor has"):
        Content(model.SerializeToString())


@pytest.mark.parametrize("is_inner", [False, True])
@pytest.mark.parametrize(
    ("kind", "given"), [("Normal", {"scale": 0.0}), ("Normal", {"scale": -1.0}), ("Uniform", {"low": 2.0})]
)
def test_numbers_are_drawn_from_a_distribution(kind: str, given: dict[str, float], is_inner: bool) -> None:
    """ONNX Runtime would end the process."""
    node = helper.make_node(f"Random{kind}Like", ["x"], ["y"], **given)
    model = _one_node(node)
    if is_inner:
        model = _one_node(helper.make_node("f", ["x"], ["y"], domain="own"))
        model.functions.append(helper.make_function("own", "f", ["x"], ["y"], [node], model.opset_import))
    with pytest.raises(ValueError, match="draws from no distribution"):
        require_bounded(model)


def test_what_a_call_says_of_a_distribution_is_no_distribution() -> None:
    node = helper.make_node("RandomUniformLike", ["x"], ["y"])
    node.attribute.append(onnx.AttributeProto(name="high", ref_attr_name="s", type=onnx.AttributeProto.FLOAT))
    model = _one_node(helper.make_node("f", ["x"], ["y"], domain="own", s=-1.0))
    model.functions.append(helper.make_function("own", "f", ["x"], ["y"], [node], model.opset_import, ["s"]))
    with pytest.raises(ValueError, match="draws from no distribution"):
        require_bounded(model)


@pytest.mark.parametrize("place", ["operands", "results", "inputs", "outputs", "arguments"])
def test_values_in_one_place_have_a_limit(place: str) -> None:
    """ONNX Runtime takes a minute for the session of a Split into a hundred thousand."""
    names = [f"v{k}" for k in range(MAX_FAN + 1)]
    for few in (True, False):
        model = _one_node(helper.make_node("Relu", ["x"], ["y"]))
        given = names[1:] if few else names
        values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in given]
        graph = model.graph
        if place == "operands":
            graph.node.append(helper.make_node("Sum", given, ["z"]))
        elif place == "results":
            graph.node.append(helper.make_node("Split", ["x"], given))
        elif place == "arguments":
            model.functions.append(helper.make_function("own", "f", given, [], [], []))
        else:
            repeated = graph.input if place == "inputs" else graph.output
            del repeated[:]
            repeated.extend(values)
        with contextlib.nullcontext() if few else pytest.raises(ValueError, match="in one place, more than"):
            require_bounded(model)


def test_whatever_a_graph_fails_with_is_an_error_of_the_file() -> None:
    model = _one_node(helper.make_node("GlobalAveragePool", ["x"], ["y"]), dims=("n", 3, "h", "w"))
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3, 1, 1]))
    content = Content(model.SerializeToString(), "evil.onnx")
    with pytest.raises(FxHeadError, match=r"evil.onnx: its graph is broken \(ValueError"):
        rewrite_content(content, Form.CONV, Scope.HEAD, [[1, 3, 10**30, 5]])  # as a file's way back may say
