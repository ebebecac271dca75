"""What ``fxhead explain`` has to say."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from fxhead.outcome import SCHEMA_VERSION, ExitCode

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import RenderableType

    from fxpasses.miss_codes import MissCode


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ExplainOutcome:
    """Result of ``fxhead explain``: one code in full, or a list of all."""

    codes: tuple[MissCode, ...]
    is_listing: bool = True

    @property
    def exit_code(self) -> ExitCode:
        """DONE: to look is never wrong."""
        return ExitCode.DONE

    def lines(self) -> Iterator[RenderableType]:
        """What to show, from top to bottom."""
        from fxhead.explain.lines import code_lines, listing_lines  # with it comes rich

        return listing_lines(self.codes) if self.is_listing else code_lines(self.codes[0])

    def to_dict(self) -> dict[str, Any]:
        """The one JSON document."""
        return {
            "schema_version": SCHEMA_VERSION,
            "command": "explain",
            "codes": [
                {
                    "code": code,
                    "meaning": code.meaning,
                    "fix": code.fix,
                    "example": code.example,
                    "asked": code.asked,
                }
                for code in self.codes
            ],
        }
