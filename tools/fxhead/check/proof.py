"""Runs ``certify`` on what a command has at hand."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path

from torch import nn

from fxexport import Verdict, available_providers
from fxexport.certificate import Certifier
from fxexport.providers import require_onnxruntime, require_provider
from fxhead.check.outcome import Check
from fxhead.show.progress import Progress
from fxpasses import WeightPlan
from fxpasses.errors import ProviderError

_CUDA = "cuda"

Model = nn.Module | Path


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ModelPair:
    """Two models to compare, with the names that the user knows them by."""

    reference_name: str
    reference: Model
    candidate_name: str
    candidate: Model


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


def prove(
    certifier: Certifier, pairs: Iterable[ModelPair], *, plan: WeightPlan | None, progress: Progress
) -> tuple[Check, ...]:
    """One certificate for each pair; stops at the first that is broken."""
    checks: list[Check] = []
    for pair in pairs:
        with progress.step(f"checking {pair.candidate_name} against {pair.reference_name}"):
            certificate = certifier.certify(pair.reference, pair.candidate, plan)
        checks.append(
            Check(reference=pair.reference_name, candidate=pair.candidate_name, certificate=certificate)
        )
        if certificate.verdict is Verdict.BROKEN:
            break
    return tuple(checks)
