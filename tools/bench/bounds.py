"""How tight the certificate's bounds are: bound ÷ observed difference, over families of models.

Each model is checked in three pairs, as a pipeline has them: the two modules, the two ONNX files, and the
module against the file of the other form. For each pair the table has the largest observed difference,
the largest bound on it, and the smallest ratio of the two over all logits; the smaller the ratio, the
tighter the bound, and below 1 it would not hold. Last comes the median over all pairs that differ at all.

    python tools/bench/bounds.py [NAME ...] [--dtype fp32|fp16|bf16] [--json FILE]
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import sys
import tempfile
import warnings
from pathlib import Path

if __name__ == "__main__":  # a benchmark runs from a checkout, installed or not
    root = Path(__file__).resolve().parents[2]
    sys.path[:0] = [str(root / folder) for folder in ("", "export", "tools")]

import torch
import torchvision
from torch import nn

from fxexport import Certificate, certify, export_onnx
from fxpasses import rewrite

SIDE = 64
NAMES = (
    "alexnet",
    "convnext_tiny",
    "densenet121",
    "efficientnet_b0",
    "googlenet",
    "mnasnet0_5",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "regnet_y_400mf",
    "resnet18",
    "resnext50_32x4d",
    "shufflenet_v2_x0_5",
)
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One pair of one model.

    Attributes:
        ratio: smallest bound ÷ difference over all logits; None where nothing differs.
    """

    name: str
    pair: str
    verdict: str
    precision: str
    difference: float
    bound: float | None
    ratio: float | None


def rows_of(name: str, dtype: torch.dtype, folder: Path) -> list[Row]:
    """The rows of one torchvision model with calibrated batch norms."""
    model = calibrated(name).to(dtype)
    images = torch.randn(8, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1)).to(dtype)
    conv = rewrite(model, to="conv", example_inputs=images[:2]).module
    found = [row(name, "modules", certify(model, conv, images))]
    if dtype is not torch.bfloat16:  # ONNX Runtime's CPU provider has no kernels for it
        files = [
            export_onnx(module, images[:2], folder / f"{name}.{form}.onnx")
            for form, module in (("linear", model), ("conv", conv))
        ]
        found.append(row(name, "files", certify(*files, images)))
        found.append(row(name, "module, file", certify(model, files[1], images)))
    return found


def calibrated(name: str) -> nn.Module:
    """The model with batch-norm statistics of random images, so that its features carry signal."""
    torch.manual_seed(0)
    options = {"init_weights": False, "aux_logits": False} if name == "googlenet" else {}
    model: nn.Module = torchvision.models.get_model(name, weights=None, **options)
    with torch.no_grad():
        model.train()(torch.randn(8, 3, SIDE, SIDE))
    return model.eval()


def row(name: str, pair: str, certificate: Certificate) -> Row:
    """What one certificate says of its first output."""
    record = certificate.statistics[0]
    ratio = None if not record.max_ratio else 1 / record.max_ratio
    return Row(
        name=name,
        pair=pair,
        verdict=str(certificate.verdict),
        precision=record.precision,
        difference=record.max_difference,
        bound=record.max_bound,
        ratio=ratio,
    )


def main() -> None:
    """Prints the table; ``--json`` also writes the rows and the median."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=NAMES, metavar="NAME")
    parser.add_argument("--dtype", choices=DTYPES, default="fp32")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # torchvision warns of slow initialisation, exporters of their own code
    head = f"{'model':20} {'pair':14} {'verdict':22} {'bounds of':9}"
    print(f"{head} {'difference':>11} {'bound':>11} {'ratio':>9}")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in options.names:
            for found in rows_of(name, DTYPES[options.dtype], Path(folder)):
                rows.append(found)
                bound = "none" if found.bound is None else f"{found.bound:.3g}"
                ratio = "equal" if found.ratio is None else f"{found.ratio:.1f}"
                print(
                    f"{found.name:20} {found.pair:14} {found.verdict:22} {found.precision:9}"
                    f" {found.difference:11.3g} {bound:>11} {ratio:>9}",
                    flush=True,
                )
    ratios = [found.ratio for found in rows if found.ratio is not None]
    median = statistics.median(ratios) if ratios else None
    print(f"median of {len(ratios)} pairs that differ: {'none' if median is None else f'{median:.1f}'}")
    if options.json:
        plain = {"dtype": options.dtype, "median": median, "rows": [dataclasses.asdict(r) for r in rows]}
        options.json.write_text(json.dumps(plain, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
