"""Runs ``certify`` on what a command has at hand."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from torch import nn

from fxexport import Certificate, Verdict, available_providers
from fxexport.certificate import Certifier
from fxexport.providers import require_onnxruntime, require_provider
from fxhead.check.outcome import Check
from fxhead.show.progress import Progress
from fxpasses import WeightPlan
from fxpasses.errors import ProviderError

_CUDA = "cuda"

NamedModel = tuple[str, nn.Module | Path]
"""A model by the name that the user knows it by."""


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
    certifier: Certifier,
    pairs: Iterable[tuple[NamedModel, NamedModel, Certificate | None]],
    *,
    plan: WeightPlan | None,
    progress: Progress,
) -> tuple[Check, ...]:
    """One certificate for each pair of reference and candidate; stops at the first that is broken.

    A pair may bring the certificate that was made of it elsewhere.
    """
    checks: list[Check] = []
    for (known, reference), (name, candidate), made in pairs:
        with progress.step(f"checking {name} against {known}"):
            certificate = made or certifier.certify(reference, candidate, plan)
        checks.append(Check(reference=known, candidate=name, certificate=certificate))
        if certificate.verdict is Verdict.BROKEN:
            break
    return tuple(checks)
