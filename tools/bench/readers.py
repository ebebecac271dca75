"""What each reader of files takes, at two sizes of the same file: its time grows as the file does.

Time is the processor's own, the better of three runs. Budget: four times the file in at most six times the
time, and what is beyond a limit is refused within a minute.

    python tools/bench/readers.py [--json FILE]
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
import struct
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # a benchmark runs from a checkout, installed or not
    root = Path(__file__).resolve().parents[2]
    sys.path[:0] = [str(root / folder) for folder in ("", "export", "tools")]

import onnx
import torch
from onnx import TensorProto, helper
from torch import nn

from fxexport.untrusted.archive import open_archive
from fxexport.untrusted.expressions import read_guard, read_size
from fxexport.untrusted.inline import inlined
from fxexport.untrusted.limits import MAX_PICKLE_INSTRUCTIONS
from fxexport.untrusted.pickles import read_pickle
from fxexport.untrusted.program_schema import read_program
from fxhead.convert.pickle_edit import read_spanned
from fxhead.convert.safetensors_stream import open_safetensors
from fxhead.convert.survey import survey
from fxhead.loading.graph_code import read_graph

GROWTH, BUDGET = 4, 6.0
RUNS = 3


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """A reader and a file for it.

    Attributes:
        name: what is read.
        unit: what the size counts.
        size: the smaller size.
        prepare: makes a file of a size, and gives what reads it.
    """

    name: str
    unit: str
    size: int
    prepare: Callable[[int], Callable[[], object]]


def _pickle(count: int) -> bytes:
    return b"\x80\x02](" + b"(K\x01K\x02K\x03K\x04t" * (count // 6) + b"e."


def _shared(count: int) -> bytes:
    """A chain of tuples, each with the one before it and a number."""
    return b"\x80\x02)" + b"K\x01\x86" * (count // 2) + b"."


def _surveyed(count: int) -> Callable[[], object]:
    root = read_spanned(io.BytesIO(_pickle(count))).root
    return lambda: survey(root, "", ())


def _archive(count: int) -> Callable[[], object]:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for index in range(count):
            archive.writestr(f"m/data/{index}", b"0123456789")
    return lambda: open_archive(buffer.getvalue(), "archive").require_whole()


def _program(count: int) -> Callable[[], object]:
    """A chain of operators, with an open batch."""
    model = nn.Sequential(*(nn.ReLU() for _ in range(2)))
    program = torch.export.export(model, (torch.zeros(2, 3),), dynamic_shapes=({0: torch.export.Dim("b")},))
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    with zipfile.ZipFile(buffer) as archive:
        name = next(name for name in archive.namelist() if name.endswith("models/model.json"))
        data = json.loads(archive.read(name))
    graph = data["graph_module"]["graph"]
    node, value = graph["nodes"][-1], graph["tensor_values"][graph["nodes"][-1]["name"]]
    graph["nodes"] += [node] * count
    graph["tensor_values"] |= {f"value_{index}": value for index in range(count)}
    return lambda: read_program(data)


def _code(count: int) -> Callable[[], object]:
    lines = "".join(f"    x{index + 1} = torch.relu(x{index})\n" for index in range(count))
    code = f"def forward(self, x0):\n{lines}    return x{count}\n"
    return lambda: read_graph(code, "import torch\n", nn.Module(), {})


def _sizes(count: int) -> Callable[[], object]:
    text = f"Add({', '.join(['Mul(Integer(2), s0)'] * 40)})"
    return lambda: [read_size(text) for _ in range(count)]


def _guards(count: int) -> Callable[[], object]:
    text = "L['x'].size()[0] // 2 != 1 + 2 * L['x'].size()[2]"
    return lambda: [read_guard(text) for _ in range(count)]


def _safetensors(count: int, folder: Path) -> Callable[[], object]:
    header = {
        f"w{i}": {"dtype": "F32", "shape": [1], "data_offsets": [4 * i, 4 * i + 4]} for i in range(count)
    }
    text = json.dumps(header).encode()
    path = folder / f"{count}.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(4 * count))
    return lambda: open_safetensors(path)


def _functions(count: int) -> Callable[[], object]:
    """A chain of functions, each of which calls the next once."""
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
    functions = [
        helper.make_function(
            "own", f"f{index}", ["x"], ["y"],
            [
                helper.make_node("Relu", ["x"], ["t"]),
                helper.make_node("Relu", ["t"], ["y"])
                if index == count - 1
                else helper.make_node(f"f{index + 1}", ["t"], ["y"], domain="own"),
            ],
            opsets,
        )
        for index in range(count)
    ]  # fmt: skip
    graph = helper.make_graph(
        [helper.make_node("f0", ["x"], ["y"], domain="own")], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
    )  # fmt: skip
    model: onnx.ModelProto = helper.make_model(graph, functions=functions, opset_imports=opsets)
    return lambda: inlined(model)


def readers(folder: Path) -> tuple[Reader, ...]:
    """Every reader with a file that grows."""
    return (
        Reader(name="pickle", unit="instructions", size=50_000,
               prepare=lambda n: lambda: read_pickle(io.BytesIO(_pickle(n)))),
        Reader(name="pickle, nested", unit="instructions", size=50_000,
               prepare=lambda n: lambda: read_pickle(io.BytesIO(_shared(n)))),
        Reader(name="pickle with places", unit="instructions", size=50_000,
               prepare=lambda n: lambda: read_spanned(io.BytesIO(_pickle(n)))),
        Reader(name="survey of a checkpoint", unit="instructions", size=50_000, prepare=_surveyed),
        Reader(name="archive", unit="members", size=1_000, prepare=_archive),
        Reader(name="program", unit="nodes", size=500, prepare=_program),
        Reader(name="GraphModule", unit="lines", size=500, prepare=_code),
        Reader(name="sizes", unit="sizes", size=100, prepare=_sizes),
        Reader(name="guards", unit="guards", size=200, prepare=_guards),
        Reader(name="safetensors", unit="tensors", size=2_000, prepare=lambda n: _safetensors(n, folder)),
        Reader(name="ONNX functions", unit="functions", size=50, prepare=_functions),
    )  # fmt: skip


def best_of(run: Callable[[], object]) -> float:
    """Seconds of processor time of the best run."""
    times = []
    for _ in range(RUNS):
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return min(times)


def main() -> int:
    """Measures, prints a table, and gives 1 where a reader is beyond its budget."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    print(f"{'reader':24} {'size':>22} {'ms':>8} {'4 × that, ms':>13} {'ratio':>6}")
    with tempfile.TemporaryDirectory() as folder:
        for reader in readers(Path(folder)):
            small, large = (best_of(reader.prepare(reader.size * factor)) for factor in (1, GROWTH))
            ratio = large / max(small, 1e-6)
            size = f"{reader.size:,} {reader.unit}"
            print(f"{reader.name:24} {size:>22} {small * 1e3:8.1f} {large * 1e3:13.1f} {ratio:6.1f}")
            rows.append({"reader": reader.name, "size": size, "seconds": [small, large], "ratio": ratio})
    start = time.process_time()
    try:
        read_pickle(io.BytesIO(_pickle(MAX_PICKLE_INSTRUCTIONS + 100)))
    except ValueError:
        refused = time.process_time() - start
        print(f"{MAX_PICKLE_INSTRUCTIONS:,} instructions and more are refused in {refused:.1f} s")
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return int(any(row["ratio"] > BUDGET for row in rows) or refused > 60)


if __name__ == "__main__":
    sys.exit(main())
