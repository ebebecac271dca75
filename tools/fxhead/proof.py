"""Runs ``export.certify`` on what a command has at hand."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from export import certify
from export.providers import available_providers
from fxhead.progress import Progress
from fxhead.results import Check
from fxhead.shapes import InputShapes
from fxpasses import WeightPlan
from fxpasses.errors import InputError, ProviderError, suggest

_KNOWN = ("cpu", "cuda")
_BATCHES = (1, 2, 5)

Inputs = list[tuple[torch.Tensor, ...]]


def choose_providers(asked: tuple[str, ...] | None) -> tuple[str, ...]:
    """The providers to check on: those asked for, or every one available of cpu and cuda.

    Raises:
        InputError: a name is unknown.
        ProviderError: one that was asked for is not available, or onnxruntime is missing.
    """
    for name in asked or ():
        if name not in _KNOWN:
            raise InputError(f"unknown provider {name!r}", where="--providers", fix=suggest(name, _KNOWN))
    available = [name for name in _KNOWN if name in available_providers()]
    for name in asked or ():
        if name not in available:
            extra = "gpu" if name == "cuda" else "cpu"
            raise ProviderError(
                f"ONNX Runtime has no {name} provider here (it has {', '.join(available)})",
                where="--providers",
                fix=f"install the extra for it: pip install 'fxhead[{extra}]'",
            )
    return asked or tuple(available)


def check_inputs(shapes: InputShapes, seed: int = 0) -> Inputs:
    """Inputs for several batch sizes."""
    return [shapes.examples(batch, seed=seed + batch) for batch in _BATCHES]


def prove(
    reference: nn.Module,
    candidates: Mapping[str, nn.Module | Path],
    shapes: InputShapes,
    providers: tuple[str, ...],
    plan: WeightPlan,
    progress: Progress,
) -> tuple[Check, ...]:
    """One certificate for each candidate; stops at the first that is broken."""
    inputs = check_inputs(shapes)
    checks: list[Check] = []
    for name, candidate in candidates.items():
        with progress.step(f"checking {name}"):
            certificate = certify(reference, candidate, inputs=inputs, providers=providers, plan=plan)
        checks.append(Check(candidate=name, certificate=certificate))
        if certificate.verdict == "broken":
            break
    return tuple(checks)
