"""One provider in figures: what it computes of both forms, how exactly, and how fast.

For each model, in its forms linear, convolution and dense, all three against one another:

- verdicts in strict sessions and with the provider's own defaults, exact probes, the largest difference over
  its bound, and the precision that sessions really have (measured);
- the same of a pair whose convolution has one weight off by 1 %, which must be ``broken``;
- nodes placed on the provider, and the convolution's latency over the linear form's at batch 1 and 32.

With ``--provider cuda`` also eager PyTorch on the GPU, ``cudnn.allow_tf32`` on and off. Every part is printed
as soon as it is there, and one that fails is told and the rest goes on. Each model is measured in a process
of its own and gets its share of ``--seconds``: one that a provider crashes or holds up costs no other.
At the end, or where it is ended before, come a table and, as the last line, one JSON document.

    python tools/bench/providers.py --provider openvino [--models NAME ...] [--seconds N] [--json FILE]
"""

from __future__ import annotations

import argparse
import copy
import functools
import json
import multiprocessing
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # a benchmark runs from a checkout, installed or not
    root = Path(__file__).resolve().parents[2]
    sys.path[:0] = [str(root / folder) for folder in ("", "export", "tools")]

import torch
import torchvision
from torch import nn

from fxexport import certify, export_onnx
from fxexport.precision import measured_precision
from fxexport.providers import Session, is_defaults, placements, targets_of
from fxexport.results import Mode, Status
from fxpasses import rewrite

MODELS = ("resnet18", "mobilenet_v3_small", "efficientnet_b0", "vgg11")
PAIRS = (("linear", "conv"), ("linear", "damaged"), ("linear", "dense"))
BATCHES = (1, 32)
SIZE = 224
FIXED_BATCH = {"qnn": 2}
"""Providers without free axes, and the batch that their files get."""
SMALL = {"qnn": 64}
"""Providers that are emulated, at some 30 s a run of ResNet-18 at 224, and the size that their files get."""

LEFT_OUT = {
    ("qnn", "mobilenet_v3_small"): "onnxruntime-qnn 2.7 makes no session of a HardSigmoid",
    ("qnn", "vgg11"): "the probes of its layers of 4,096 features take hours on the emulator",
}
"""Models that a provider does not run in any form, or not in time."""


def calibrated(name: str, size: int) -> nn.Module:
    """A torchvision model whose batch norms have seen data: at their initial values some give no signal."""
    torch.manual_seed(0)
    model = torchvision.models.get_model(name, weights=None)
    with torch.no_grad():
        for _ in range(2):
            model.train()(torch.randn(4, 3, size, size))
    return model.eval()


def forms_of(model: nn.Module) -> dict[str, nn.Module]:
    """The model in each form, and its convolution form with one weight off by 1 %."""
    forms = {"linear": model, "conv": rewrite(model, to="conv").module}
    dense = rewrite(model, to="dense")
    if dense.report.rewrites:
        forms["dense"] = dense.module
    forms["damaged"] = copy.deepcopy(forms["conv"])
    weights = [weight for weight in forms["damaged"].parameters() if weight.dim() == 4]
    with torch.no_grad():
        weights[-1].view(-1)[weights[-1].abs().argmax()] *= 1.01
    return forms


def images(provider: str, count: int = 8) -> torch.Tensor:
    """The same images at every call, as many as the provider's files take."""
    size, generator = SMALL.get(provider, SIZE), torch.Generator().manual_seed(1)
    return torch.randn(FIXED_BATCH.get(provider, count), 3, size, size, generator=generator)


def write(module: nn.Module, path: Path, provider: str) -> Path:
    """The form's file, as the provider takes it."""
    export_onnx(module, images(provider, 2), path)
    if provider in FIXED_BATCH:
        import onnx

        model = onnx.load(path)
        for value in (*model.graph.input, *model.graph.output):
            value.type.tensor_type.shape.dim[0].dim_value = FIXED_BATCH[provider]
        onnx.save(model, path)
    return path


def judged(reference: Path, candidate: Path, provider: str) -> dict[str, Any]:
    """What the certificate says on each target."""
    found = certify(reference, candidate, images(provider), providers=(provider,))

    def ratio(mode: Mode) -> tuple[float | None, str]:
        """The largest difference over its bound, and the arithmetic that the bound is of."""
        own = [item for item in found.statistics if is_defaults(item.provider) == (mode is Mode.DEFAULTS)]
        ratios = [item.max_ratio for item in own if item.max_ratio is not None]
        return max(ratios, default=None), ", ".join(sorted({item.precision for item in own}))

    return {
        "verdict": str(found.verdict),
        "reason": found.reason,
        "targets": [
            {
                "mode": str(target.mode),
                "verdict": str(target.verdict),
                "probes": target.wiring.covered.probes,
                "probes_hold": target.wiring.status is not Status.FAILED,
                "largest_ratio": ratio(target.mode)[0],
                "bounds": ratio(target.mode)[1],
                "asked": target.asked_precision,
                "measured": target.measured_precision,
                "is_repeatable": target.is_repeatable,
            }
            for target in found.targets
        ],
    }


def latency(files: dict[str, Path], provider: str, batch: int) -> float:
    """Median time of the convolution form over that of the linear one, the two taking turns."""
    sessions = {form: Session(files[form], provider) for form in ("linear", "conv")}
    values = (images(provider, batch).numpy(),)
    times: dict[str, list[float]] = {form: [] for form in sessions}
    for turn in range(8):
        for form, session in sessions.items():
            start = time.perf_counter()
            session.run(values)
            if turn:  # the first run warms up
                times[form].append(time.perf_counter() - start)
    return statistics.median(times["conv"]) / statistics.median(times["linear"])


def eager(forms: dict[str, nn.Module]) -> dict[str, float]:
    """Largest difference to float64 of each form on the GPU, over the largest logit, by TF32 setting."""
    values = images("cuda")
    found = {}
    with torch.no_grad():
        exact = copy.deepcopy(forms["linear"]).double()(values.double())
        for is_tf32 in (True, False):
            torch.backends.cudnn.allow_tf32 = is_tf32
            for form in ("linear", "conv"):
                logits = copy.deepcopy(forms[form]).cuda()(values.cuda()).cpu().double()
                difference = (logits - exact).abs().max() / exact.abs().max()
                found[f"{form}, cudnn.allow_tf32={is_tf32}"] = float(difference)
    return found


def parts(name: str, provider: str, folder: Path) -> Iterator[tuple[str, Callable[[], Any]]]:
    """What is measured of one model, by name; of none, what sessions compute in."""
    if not name:
        for target in targets_of(provider):
            yield target, lambda target=target: str(measured_precision(target))
        return
    forms = forms_of(calibrated(name, SMALL.get(provider, SIZE)))

    @functools.cache
    def file(form: str) -> Path:
        return write(forms[form], folder / f"{form}.onnx", provider)

    for pair in PAIRS:
        if pair[1] in forms:
            yield " and ".join(pair), lambda pair=pair: judged(*map(file, pair), provider)

    def placed() -> dict[str, int]:
        return {form: len(placements(Session(file(form), provider)._session)) for form in forms}

    yield "nodes placed", placed
    for batch in BATCHES if provider not in FIXED_BATCH else (FIXED_BATCH[provider],):
        yield (
            f"conv over linear, batch {batch}",
            lambda batch=batch: round(latency({form: file(form) for form in PAIRS[0]}, provider, batch), 3),
        )
    if provider == "cuda":
        yield "eager PyTorch on the GPU", lambda: eager(forms)


def measure(name: str, provider: str, folder: Path, told: Connection) -> None:
    """A model's parts, in a process of its own: each is told when it begins, and what came of it."""
    for part, work in parts(name, provider, folder):
        told.send((part, None, None))
        try:
            told.send((part, work(), None))
        except Exception as error:  # noqa: BLE001 - one part that fails must not cost the others
            told.send((part, None, f"{type(error).__name__}: {error}"))


def measured(name: str, provider: str, deadline: float) -> Iterator[tuple[str, Any, str | None]]:
    """Each part of a model, with what came of it or why nothing did, until the time is over."""
    if time.monotonic() > deadline:
        yield "all parts", None, "no time was left"
        return
    context = multiprocessing.get_context("fork")  # nothing ran on the provider in this process
    told, end = context.Pipe(duplex=False)
    part = "its forms"
    with tempfile.TemporaryDirectory() as folder:
        process = context.Process(target=measure, args=(name, provider, Path(folder), end), daemon=True)
        process.start()
        end.close()
        try:
            while told.poll(max(deadline - time.monotonic(), 0)):
                part, found, problem = told.recv()
                if found is not None or problem is not None:
                    yield part, found, problem
            yield part, None, "no time was left"
        except EOFError:
            process.join()
            if process.exitcode:
                yield part, None, f"its process ended with {process.exitcode}"
        finally:
            process.kill()
            process.join()


def table(models: dict[str, dict[str, Any]]) -> Iterator[str]:
    """A line for each pair and mode; the latencies of a model stand beside its first."""
    columns = f"{'model':20} {'forms':19} {'mode':9} {'verdict':13} {'probes':>7} {'of bound':>9}"
    yield f"{columns}  precision  latency"
    for model, row in models.items():
        times = "  ".join(f"{part.rpartition(' ')[2]}: {row[part]}" for part in row if "batch" in part)
        for pair, found in row.items():
            for target in found["targets"] if isinstance(found, dict) and "targets" in found else ():
                of_bound = "" if target["largest_ratio"] is None else f"{target['largest_ratio']:.2g}"
                cells = f"{target['mode']:9} {target['verdict']:13} {target['probes']:7} {of_bound:>9}"
                yield f"{model:20} {pair:19} {cells}  {target['measured']!s:9}  {times}"
                times = ""


def main() -> int:
    """Prints each part, then the document; 1 where a part failed or a verdict is not what it must be."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--provider", default="cuda")
    parser.add_argument("--models", nargs="+", default=MODELS, metavar="NAME")
    parser.add_argument("--seconds", type=float, default=1800, help="shared by the models")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    start = time.monotonic()
    document: dict[str, Any] = {
        "provider": options.provider,
        "precision": {},
        "models": {},
        "left_out": {},
        "failed": [],
    }

    def ended(number: int, _: object) -> None:
        raise KeyboardInterrupt(f"ended by signal {number}")

    signal.signal(signal.SIGTERM, ended)
    try:
        names = ("", *options.models)
        for count, name in enumerate(names):
            if (options.provider, name) in LEFT_OUT:
                document["left_out"][name] = LEFT_OUT[options.provider, name]
                print(f"{name} is left out: {document['left_out'][name]}", flush=True)
                continue
            row = document["models"].setdefault(name, {}) if name else document["precision"]
            now = time.monotonic()
            share = (start + options.seconds - now) / (len(names) - count)
            for part, found, problem in measured(name, options.provider, now + share):
                if problem is not None:
                    document["failed"].append(f"{name}, {part}: {problem}")
                    shown = problem
                else:
                    row[part] = found
                    is_verdict = isinstance(found, dict) and "verdict" in found
                    shown = f"{found['verdict']}: {found['reason']}" if is_verdict else found
                print(f"{time.monotonic() - start:6.0f} s  {name:20} {part:32} {shown}", flush=True)
    except KeyboardInterrupt as error:  # what is there is worth having
        document["failed"].append(str(error) or "interrupted")
    document["wrong"] = [
        f"{name}, {part}: {found['verdict']}"
        for name, row in document["models"].items()
        for part, found in row.items()
        if isinstance(found, dict) and "verdict" in found
        if (found["verdict"] == "broken") != part.endswith("damaged")
    ]
    print(*table(document["models"]), sep="\n")
    text = json.dumps(document)
    if options.json is not None:
        options.json.write_text(text)
    print(text)
    return 1 if document["failed"] or document["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
