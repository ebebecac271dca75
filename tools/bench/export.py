"""What the certificate costs: ``fxhead rewrite`` beside bare exports, ``certify`` beside bare runs.

Each figure is a ratio of medians, taken in turns on one machine:

- **rewrite**: CPU time of ``fxhead rewrite`` with ONNX files and certificate, the whole command, over that
  of a script which imports torch, builds the model and calls ``torch.onnx.export`` for both forms. Budget 1.
- **check**: ``certify`` of the two files over one ONNX Runtime load and run of each, in CPU time. Budget 2.
- **memory**: peak of that ``certify`` over the imports, over the size of both files. Budget 2.

    python tools/bench/export.py [NAME ...] [--repeats N] [--json FILE]
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
from pathlib import Path

if __name__ == "__main__":  # a benchmark runs from a checkout, installed or not
    root = Path(__file__).resolve().parents[2]
    sys.path[:0] = [str(root / folder) for folder in ("", "export", "tools")]

from bench._process import PEAK, children_cpu, python, seconds

NAMES = ("resnet18", "resnet50", "vgg11")
BUDGETS = {"rewrite": 1.0, "check": 2.0, "memory": 2.0}
EXPORTS = """
import torch, torchvision, warnings
warnings.simplefilter("ignore")
model = torchvision.models.get_model({name!r}, weights=None).eval()
x, batch = torch.randn(2, 3, 224, 224), ({{0: torch.export.Dim("batch")}},)
torch.onnx.export(model, (x,), "{out}/bare0.onnx", dynamo=True, dynamic_shapes=batch, verbose=False)
path, linear = [entry for entry in model.named_modules() if isinstance(entry[1], torch.nn.Linear)][-1]
conv = torch.nn.Conv2d(linear.in_features, linear.out_features, 1)
conv = torch.nn.Sequential(torch.nn.Unflatten(1, (-1, 1, 1)), conv.eval(), torch.nn.Flatten())
model.set_submodule(path, conv)
torch.onnx.export(model, (x,), "{out}/bare1.onnx", dynamo=True, dynamic_shapes=batch, verbose=False)
"""
RUNS = """
import time, numpy, onnxruntime
x = numpy.random.default_rng(0).standard_normal((8, 3, 224, 224)).astype(numpy.float32)
start = time.process_time()
for path in {files!r}:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    session.run(None, {{session.get_inputs()[0].name: x}})
    del session
print(time.process_time() - start)
"""
IMPORTS = "import torch, onnx, onnxruntime, onnx_ir.passes.common\nfrom fxexport import certify\n"
CHECK = """
import time
start = time.process_time()
certificate = certify(*{files!r})
assert certificate.is_accepted, certificate.reason
print(time.process_time() - start)
"""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One model's seconds, bytes, and the ratios that the budget is about."""

    name: str
    rewrite_s: float
    exports_s: float
    check_s: float
    runs_s: float
    peak_bytes: int
    files_bytes: int

    @property
    def ratios(self) -> dict[str, float]:
        """The three figures."""
        return {
            "rewrite": self.rewrite_s / self.exports_s,
            "check": self.check_s / self.runs_s,
            "memory": self.peak_bytes / self.files_bytes,
        }


def measure(name: str, folder: Path, repeats: int) -> Row:
    """The row of one torchvision model."""
    out = folder / f"{name}.pt"
    command = ["-m", "fxhead", "rewrite", f"torchvision:{name}", "--to", "conv", "--providers", "cpu"]
    times = seconds(
        {
            "rewrite": [*command, "--force", "-o", str(out)],
            "exports": ["-c", EXPORTS.format(name=name, out=folder)],
        },
        repeats,
        clock=children_cpu,
    )
    files = [str(folder / f"{name}.{form}.onnx") for form in ("linear", "conv")]
    inner: dict[str, list[float]] = {"check": [], "runs": []}
    for _ in range(repeats):
        inner["runs"].append(float(python("-c", RUNS.format(files=files))))
        inner["check"].append(float(python("-c", IMPORTS + CHECK.format(files=files))))
    peak = int(python("-c", f"{IMPORTS}certify(*{files!r})\n{PEAK}")) - int(python("-c", f"{IMPORTS}{PEAK}"))
    return Row(
        name=name,
        rewrite_s=times["rewrite"],
        exports_s=times["exports"],
        check_s=_median(inner["check"]),
        runs_s=_median(inner["runs"]),
        peak_bytes=peak * 1024,
        files_bytes=sum(Path(file).stat().st_size for file in files),
    )


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


def main() -> None:
    """Prints the table; ``--json`` also writes the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=NAMES, metavar="NAME")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    head = f"{'model':20} {'rewrite':>9} {'exports':>9} {'ratio':>6}"
    print(f"{head} {'check':>9} {'runs':>9} {'ratio':>6} {'peak':>9} {'files':>9} {'ratio':>6}")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in options.names:
            row = measure(name, Path(folder), options.repeats)
            rows.append({**dataclasses.asdict(row), "ratios": row.ratios, "budgets": BUDGETS})
            ratios = row.ratios
            print(
                f"{row.name:20} {row.rewrite_s:7.2f} s {row.exports_s:7.2f} s"
                f" {ratios['rewrite']:6.2f} {row.check_s:7.2f} s {row.runs_s:7.2f} s {ratios['check']:6.2f}"
                f" {row.peak_bytes / 1e6:6.0f} MB {row.files_bytes / 1e6:6.0f} MB {ratios['memory']:6.2f}",
                flush=True,
            )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
