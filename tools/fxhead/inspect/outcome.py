"""What ``fxhead inspect`` found."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from fxhead.outcome import SCHEMA_VERSION, ExitCode, ModelInfo

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import RenderableType

    from fxpasses.report import Sites


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class InspectOutcome:
    """Result of ``fxhead inspect``."""

    model: ModelInfo
    scope: str
    sites: Sites

    @property
    def exit_code(self) -> ExitCode:
        """DONE: to look is never wrong."""
        return ExitCode.DONE

    def lines(self) -> Iterator[RenderableType]:
        """What to show, from top to bottom."""
        from fxhead.inspect.lines import inspect_lines  # with it comes rich, which JSON does not need

        return inspect_lines(self)

    def to_dict(self) -> dict[str, Any]:
        """The one JSON document."""
        return {
            "schema_version": SCHEMA_VERSION,
            "command": "inspect",
            "model": self.model.to_dict(),
            "scope": self.scope,
            **self.sites.to_dict(),
        }
