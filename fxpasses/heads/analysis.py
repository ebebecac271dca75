"""What finding sites gives: the region, the matches, the misses, and who else uses what they use."""

from __future__ import annotations

import dataclasses

from fxpasses.engine.match import Match
from fxpasses.engine.ranks import Ranks
from fxpasses.engine.uses import Uses
from fxpasses.heads.headless import LastAffine
from fxpasses.heads.region import Region
from fxpasses.miss_codes import MissCode
from fxpasses.report import Miss
from fxpasses.vocabulary.vocabulary import Vocabulary


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Analysis:
    """All that a graph's analysis found: the region, the matches and what else uses theirs, the misses.

    ``before_pool`` are the last affine ops that a pool follows; ``dense`` says which of them are sites.
    ``ranks`` are known in scope ``all`` only.
    """

    region: Region
    vocabulary: Vocabulary
    matches: tuple[Match, ...]
    misses: tuple[Miss, ...]
    uses: Uses
    before_pool: tuple[LastAffine, ...] = ()
    ranks: Ranks | None = None

    def is_presumed(self) -> bool:
        """Whether example inputs could settle something that was presumed or missed."""
        open_codes = (MissCode.UNKNOWN_EXTENT, MissCode.UNKNOWN_LAYOUT, MissCode.NOT_POOLED)
        return self.region.is_presumed or any(miss.code in open_codes for miss in self.misses)
