"""Every torchvision classifier: the ONNX file derived from the first one beside the one that an export gives.

``fxhead rewrite`` exports a model once and makes the other form's file from that one. For each model the two
have to be equal up to the names of values.

    python tools/bench/derived.py [NAME ...]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import onnx
import torch

if __name__ == "__main__":  # a benchmark runs from a checkout, installed or not
    root = Path(__file__).resolve().parents[2]
    sys.path[:0] = [str(root / folder) for folder in ("", "export", "tools")]

from bench.zoo import INPUT_SHAPES, build, inputs, model_names
from fxexport import export_onnx
from fxexport.onnx_node import attributes_of, versions_of
from fxhead.rewriting.derive import derive
from fxpasses import rewrite
from fxpasses.report import Form


def up_to_names(path: Path) -> list[Any]:
    """The nodes of a file with all of their attributes, values by the order in which they come.

    What a Reshape makes of zeros counts where there is one.
    """
    model = onnx.load(path)
    versions = versions_of(model)
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    names: dict[str, int] = {value.name: place for place, value in enumerate(model.graph.input)}

    def known(name: str) -> Any:
        if name in stored:
            return (*stored[name].dims, stored[name].raw_data)
        return names.setdefault(name, len(names))

    def meant(node: onnx.NodeProto) -> list[tuple[str, str]]:
        found = attributes_of(node, versions)
        if node.op_type == "Reshape" and node.input[1] in stored:
            found["allowzero"] = found["allowzero"] and 0 in onnx.numpy_helper.to_array(stored[node.input[1]])
        return sorted((key, str(value)) for key, value in found.items() if value)

    return [
        (
            node.op_type,
            [known(name) for name in node.input],
            [known(name) for name in node.output],
            meant(node),
        )
        for node in model.graph.node
    ]


def examine(name: str, folder: Path) -> str:
    """What one model gave: ``equal``, ``DIFFERENT``, ``exported`` (nothing is derived), or ``refused``."""
    model, examples = build(name, dtype=torch.float32), (inputs(name).float(),)
    form = Form.CONV
    result = rewrite(model, to=form, example_inputs=examples)
    if not result.report.rewrites:
        form = Form.LINEAR
        result = rewrite(model, to=form, example_inputs=examples)
    if not result.report.rewrites:
        return "refused"
    first, other, made = (folder / f"{part}.onnx" for part in ("first", "other", "made"))
    export_onnx(model, examples, first)
    if not derive(first, made, result.report):
        return "exported"
    export_onnx(result.module, examples, other)
    return "equal" if up_to_names(made) == up_to_names(other) else "DIFFERENT"


def main() -> None:
    """Prints a line for each model, and how many there were of each kind."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    images = [name for name in model_names() if len(INPUT_SHAPES.get(name, (3, 64, 64))) == 3]
    parser.add_argument("names", nargs="*", default=images, metavar="NAME")
    kinds: list[str] = []
    for name in parser.parse_args().names:
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            kinds.append(examine(name, Path(folder)))
        print(f"{name:24} {kinds[-1]:10} {time.perf_counter() - start:6.1f} s", flush=True)
    print(", ".join(f"{kinds.count(kind)} {kind}" for kind in sorted({*kinds})))


if __name__ == "__main__":
    main()
