"""One comparison, and what a verdict has to say to be a yes."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fxexport.results import Certificate


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One comparison, by the names that the user knows the two by."""

    reference: str
    candidate: str
    certificate: Certificate

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return self.certificate.to_dict() | {"reference": self.reference, "candidate": self.candidate}


def is_enough(checks: tuple[Check, ...], required: str) -> bool:
    """True if every verdict says at least as much as is required; nothing checked proves nothing."""
    verdicts = [check.certificate.verdict for check in checks]
    is_asked = required == "proved"
    return (bool(checks) or not is_asked) and all(v.is_enough(type(v)(required)) for v in verdicts)


def worst(checks: tuple[Check, ...]) -> str | None:
    """The worst verdict of several; verdicts are declared from best to worst."""
    verdicts = [check.certificate.verdict for check in checks]
    if not verdicts:
        return None
    order = list(type(verdicts[0]))
    return str(max(verdicts, key=order.index))
