"""Each reader has a budget; what is beyond it is one error that names the limit, soon."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import time
import tracemalloc
from pathlib import Path
from typing import Any, cast

import onnx
import pytest
from hostile_names import _edited
from onnx import TensorProto, helper, parser

from fxexport.language import derive, graph_of_onnx
from fxexport.onnx_dialect.content import Content
from fxexport.onnx_dialect.rewrite import find_onnx_sites
from fxexport.subjects.onnx_subject import OnnxSubject
from fxexport.untrusted.archive import open_regular, read_regular
from fxexport.untrusted.inline import inlined
from fxexport.untrusted.limits import MAX_EXPANDED_OBJECTS, MAX_HOLE_BYTES
from fxexport.untrusted.pickle_records import PickleError
from fxexport.untrusted.pickles import read_pickle
from fxexport.untrusted.plain_objects import PlainObjects
from fxexport.untrusted.programs import read_program
from fxexport.untrusted.refused import Refused
from fxpasses.errors import CheckError, FileError


def pickled(content: bytes) -> io.BytesIO:
    return io.BytesIO(b"\x80\x02" + content + b".")


# --- files ---------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "SEEK_DATA"), reason="this system has no holes")
def test_a_file_that_is_a_hole_has_a_limit(tmp_path: Path) -> None:
    """Weights in another file may be larger than the tensors need, and their digest takes all of it."""
    path = tmp_path / "weights.bin"
    path.write_bytes(b"x" * 8192)
    os.truncate(path, MAX_HOLE_BYTES)
    with open_regular(path) as file:
        assert file.read(2) == b"xx"
    os.truncate(path, 1 << 40)
    with pytest.raises(
        FileError, match=r"has 1,099,511,627,776 bytes, of which 1,099,511,619,584 are on no disk"
    ):
        open_regular(path)


# --- pickles -------------------------------------------------------------------------------------


def test_instructions_are_counted() -> None:
    content = b"](" + b"K\x01" * 100 + b"e"
    assert len(read_pickle(pickled(content), 200).root) == 100
    with pytest.raises(PickleError, match="more instructions than the limit of 50"):
        read_pickle(pickled(content), 50)


def doubled(times: int, start: bytes, pair: bytes) -> bytes:
    """Something that holds the last thing twice, many times over."""
    return start + b"q\x00" + (b"0" + pair.replace(b"h", b"h\x00") + b"q\x00") * times


SHARED = {
    "tuples": doubled(60, b"K\x01\x85", b"hh\x86"),
    "lists": doubled(60, b"]K\x01a", b"](hhe"),
    "dicts": doubled(60, b"}K\x01K\x01s", b"}(K\x01hK\x02hu"),
    "calls": doubled(60, b")", b"ctorch\nSize\nhh\x86R"),
    "states": doubled(60, b")", b"ctorch.nn.modules.linear\nIdentity\n)\x81hbhb"),
}


@pytest.mark.parametrize("kind", SHARED)
def test_what_is_shared_counts_as_often_as_it_is_met(kind: str) -> None:
    start = time.perf_counter()
    with pytest.raises(PickleError, match=f"limit of {MAX_EXPANDED_OBJECTS:,}, those that are shared"):
        read_pickle(pickled(SHARED[kind]))
    assert time.perf_counter() - start < 5


def test_sets_are_sets() -> None:
    content = io.BytesIO(pickle.dumps([{1, 2}, frozenset("ab")], 4))
    made = PlainObjects(cast(Any, None)).make(read_pickle(content).root)
    assert made == [{1, 2}, {"a", "b"}]


@pytest.mark.parametrize("name", ["os\nsystem", "torch\nload", "torch\nTensor", "builtins\nset"])
def test_a_name_alone_is_no_value(name: str) -> None:
    with pytest.raises(PickleError, match="as a value"):
        PlainObjects(cast(Any, None)).make(read_pickle(pickled(f"c{name}\n.".encode())).root)


CALLS = {
    "a new object": (b"ctorch\nSize\n(K\x01K\x02t\x85\x81", "in a way that torch.save does not"),
    "a state": (b"ctorch\nSize\n(K\x01K\x02t\x85R}b", "in a way that torch.save does not"),
    "elements": (b"ctorch\nSize\n(K\x01K\x02t\x85R(K\x03e", "in a way that torch.save does not"),
    "too few": (b"ctorch\nSize\n)R", "in a way that torch.save does not"),
    "half a pair": (b"ccollections\nOrderedDict\n](K\x01\x85e\x85R", "a key without a value"),
    "arguments": (b"ctypes\nSimpleNamespace\nK\x01\x85R", "in a way that pickle does not"),
    "a computed call": (b"ctypes\nSimpleNamespace\n)R)R", "calls something that it made itself"),
    "another encoding": (
        b"c_codecs\nencode\nX\x01\x00\x00\x00aX\x03\x00\x00\x00rot\x86R",
        "has bytes in a form",
    ),
    "a layout": (b"ctorch.serialization\n_get_layout\nX\x01\x00\x00\x00a\x85R", "a tensor of layout a"),
    "a key": (b"}]K\x01s", "a list as a key"),
    "a nested key": (b"})\x85\x85K\x01s", "a tuple as a key"),
}


@pytest.mark.parametrize("case", CALLS)
def test_what_pickle_does_not_write_is_not_made(case: str) -> None:
    content, says = CALLS[case]
    with pytest.raises(PickleError, match=says):
        PlainObjects(cast(Any, None)).make(read_pickle(pickled(content)).root)


def test_an_object_that_contains_itself_is_read() -> None:
    """It is refused only by whoever would make it real."""
    (loop,) = read_pickle(pickled(b"]q\x00h\x00a")).root
    assert loop[0] is loop


# --- ONNX functions --------------------------------------------------------------------------------


def with_functions(count: int, *, in_a_circle: bool = False) -> onnx.ModelProto:
    """Functions that each call the next one twice."""
    functions = []
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
    for index in range(count):
        name = f"f{(index + 1) % count}"
        nodes = [
            helper.make_node(name, ["x"], ["t"], domain="own"),
            helper.make_node(name, ["t"], ["y"], domain="own"),
        ]
        if index == count - 1 and not in_a_circle:
            nodes = [helper.make_node("Relu", ["x"], ["y"])]
        functions.append(helper.make_function("own", f"f{index}", ["x"], ["y"], nodes, opsets))
    graph = helper.make_graph(
        [helper.make_node("f0", ["x"], ["y"], domain="own")], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
    )  # fmt: skip
    return helper.make_model(graph, functions=functions, opset_imports=opsets, ir_version=10)


def test_functions_are_written_out_where_that_is_small() -> None:
    assert [node.op_type for node in inlined(with_functions(4)).graph.node] == ["Relu"] * 8


@pytest.mark.parametrize(("count", "in_a_circle"), [(30, False), (3, True), (1, True)])
def test_functions_that_become_a_billion_nodes_are_refused(count: int, in_a_circle: bool) -> None:
    with pytest.raises(Refused, match=r"more nodes than the limit|calls itself"):
        inlined(with_functions(count, in_a_circle=in_a_circle))


@pytest.mark.parametrize("name", [b"MyOp", b"my.domain", b"my node", b"my input", b"my attribute"])
def test_a_name_that_is_no_text_is_refused(name: bytes) -> None:
    """Protobuf gives bytes for it, which made an internal error of whatever compares it with text."""
    node = onnx.helper.make_node(
        "MyOp", ["my input"], ["y"], name="my node", domain="my.domain", **{"my attribute": 1}
    )
    whole = onnx.helper.make_model(onnx.helper.make_graph([node], "g", [], [])).SerializeToString()
    with pytest.raises(Refused, match="has a name that is no UTF-8"):
        inlined(onnx.load_from_string(whole.replace(name, name[:-1] + b"\xff")))


@pytest.mark.parametrize(("content", "what"), [(b"\0\0" * 9, "no number"), (b"\x08\x01" * 99, "more fields")])
def test_small_fields_of_an_onnx_file_are_counted(
    content: bytes, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fxexport.onnx_dialect.content.MAX_FIELDS", 50)
    with pytest.raises(ValueError, match=what):
        Content(content)


def test_guards_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two hundred thousand took a minute and two gigabytes: torch makes one function of them."""
    monkeypatch.setattr("fxexport.untrusted.program_schema.MAX_GUARDS", 2)
    guards = ["L['x'].size()[1] == 3"] * 3
    for count in (2, 3):
        path = _edited(lambda data, _, few=guards[:count]: data.update(guards_code=few))(tmp_path)
        told = pytest.raises(FileError, match="3 guards, more than the limit of 2")
        with told if count > 2 else contextlib.nullcontext():
            read_program(path)


@pytest.mark.parametrize("name", ["strides", "dilations"])
def test_windows_move_on(name: str, tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"], **{name: [0, 0]})],
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 2, 4, 4])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
        [helper.make_tensor("w", onnx.TensorProto.FLOAT, [3, 2, 1, 1], [0.5] * 6)],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), tmp_path / "m.onnx")
    with pytest.raises(CheckError, match=f"'Conv' has {name} of 0"):
        OnnxSubject(tmp_path / "m.onnx")


def test_more_layers_than_anybody_s_are_not_run_alone(tmp_path: Path) -> None:
    heads = [f"y{index}" for index in range(1001)]
    graph = helper.make_graph(
        [helper.make_node("GlobalAveragePool", ["x"], ["p"]), helper.make_node("Flatten", ["p"], ["f"])]
        + [helper.make_node("Gemm", ["f", "w"], [name]) for name in heads],
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 2, 4, 4])],
        [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", 3]) for name in heads],
        [helper.make_tensor("w", onnx.TensorProto.FLOAT, [2, 3], [0.5] * 6)],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), tmp_path / "m.onnx")
    with pytest.raises(CheckError, match=r"1,001 layers, more than the limit of 1,000"):
        OnnxSubject(tmp_path / "m.onnx")


# --- what is no file -------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes in folders")
def test_pipes_and_devices_are_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    for name in ("pipe", "zero"):
        with pytest.raises(FileError, match="is no regular file"):
            open_regular(tmp_path / name)
        with pytest.raises(FileError, match="is no regular file"):
            read_regular(tmp_path / name, 10)
    (tmp_path / "file").write_bytes(b"0123456789")
    assert read_regular(tmp_path / "file", 10) == b"0123456789"
    with pytest.raises(FileError, match="is larger than the limit"):
        read_regular(tmp_path / "file", 9)


UNSOUND = {
    **{
        f"the equation {equation}": (
            f'r = Einsum <equation = "{equation}"> (x, x)',
            "Einsum .* has no equation",
        )
        for equation in ("....,...->...", "..,..->", "a.b->ab")
    },
    "no operand": ("r = EyeLike ()", "EyeLike .* lacks its operand 'input'"),
    "an operand left out": ('r = EyeLike ("")', "EyeLike .* lacks its operand 'input'"),
    "an attribute left out": (
        "q = ai.onnx.ml.Q (x) r = ai.onnx.ml.TreeEnsemble <nodes_splits = float[0] {}> (q)",
        "TreeEnsemble .* has no attribute '.*' as it is defined",
    ),
    "an attribute of another type": ("r = Softmax <axis = 1.0> (x)", "Softmax .* has no attribute 'axis'"),
    "outputs beyond those told": (
        "r, s, t = Split <axis = 1, num_outputs = 1> (x)",
        "Split .* has another number of outputs than it says",
    ),
    "no number where it reads one": (
        "c = Constant <value = int64[0] {}> () u = Unsqueeze (x, a) r = STFT (u, c)",
        "range_check",
    ),
}


@pytest.mark.parametrize("name", UNSOUND)
def test_what_onnx_trusts_in_a_node_is_looked_at_first(name: str, tmp_path: Path) -> None:
    """Its inference of shapes ends the process on these, or never ends."""
    text, told = UNSOUND[name]
    head = '<ir_version: 8, opset_import: ["" : 18, "ai.onnx.ml" : 5]> g (float[N,4] x) => (float[N,4] y)'
    model = parser.parse_model(f"{head} <int64[1] a = {{2}}> {{ {text} y = Relu (x) }}")
    onnx.save(model, tmp_path / "m.onnx")
    assert derive(graph_of_onnx(model), graph_of_onnx(model)).is_proved
    assert find_onnx_sites(model).sites == ()
    with pytest.raises(CheckError, match=told):
        OnnxSubject(tmp_path / "m.onnx")


def test_scales_are_not_written_out_beyond_the_values_that_they_are_for(tmp_path: Path) -> None:
    def blocks_of(size: int) -> onnx.ModelProto:
        head = '<ir_version: 10, opset_import: ["" : 21]> g (float[N,4] x) => (float[N,4] y)'
        held = "<int8[4,4] q = {0,1,2,3,4,5,6,7,8,9,1,2,3,4,5,6}, float[4,1] s = {1,2,3,4}>"
        body = f"{{ w = DequantizeLinear <axis = 1, block_size = {size}> (q, s) y = MatMul (x, w) }}"
        return parser.parse_model(f"{head} {held} {body}")

    endless = blocks_of((1 << 63) - 1)
    assert derive(graph_of_onnx(endless), graph_of_onnx(endless)).is_proved
    onnx.save(blocks_of(1 << 24), tmp_path / "m.onnx")
    tracemalloc.start()
    try:
        OnnxSubject(tmp_path / "m.onnx")
        assert tracemalloc.get_traced_memory()[1] < 1 << 26
    finally:
        tracemalloc.stop()


def test_constants_of_constants_are_as_many_as_there_are(tmp_path: Path) -> None:
    head = '<ir_version: 8, opset_import: ["" : 18]> g (float[N,4] x) => (float[N,4] y) <float[1] c0 = {2}>'
    chain = " ".join(f"c{place + 1} = Neg (c{place})" for place in range(700))
    onnx.save(parser.parse_model(f"{head} {{ {chain} y = Mul (x, c700) }}"), tmp_path / "m.onnx")
    OnnxSubject(tmp_path / "m.onnx")
