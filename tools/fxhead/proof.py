"""Runs ``export.certify`` on what a command has at hand."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from export import certify
from export.providers import available_providers, require_onnxruntime, require_provider
from fxhead.progress import Progress
from fxhead.results import Check
from fxhead.shapes import InputShapes
from fxpasses import WeightPlan
from fxpasses.errors import ProviderError

_CUDA = "cuda"
_BATCHES = (1, 2, 5)

Inputs = list[tuple[torch.Tensor, ...]]


def choose_providers(asked: tuple[str, ...] | None) -> tuple[str, ...]:
    """The providers to check on: those asked for, or every one available of cpu and cuda.

    Raises:
        ProviderError: onnxruntime is missing, or one that was asked for is unknown or does not work.
    """
    require_onnxruntime()
    for name in asked or ():
        require_provider(name)
        if name == _CUDA and name not in available_providers():
            raise ProviderError(
                "the provider is installed but does not start here",
                where=name,
                fix="check the driver and the CUDA libraries, or leave it out of --providers",
            )
    return asked or available_providers()


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
