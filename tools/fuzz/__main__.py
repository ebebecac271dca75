"""``tools/dev fuzz [--minutes N] [--seed N] [TARGET…]``: a long run, each fault with how to see it again.

Targets are what reads a file, given spoilt ones, and ``pairs``, which derives random programs.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from fuzz.corpus import corpus
from fuzz.mutate import Choice, spoilt
from fuzz.pairs import attempt_pair
from fuzz.targets import TARGETS, Fault, attempt

PAIRS = "pairs"
"""Random programs beside each other, which are no files."""
_NAMES = (*TARGETS, PAIRS)


def main() -> int:
    """How many kinds of faults there are, at most 1."""
    parser = argparse.ArgumentParser(prog="tools/dev fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(_NAMES)}; default: all")
    parser.add_argument("--minutes", type=float, default=60, help="how long, all targets together")
    parser.add_argument("--seed", type=int, default=None, help="of what is chosen; default: another")
    parser.add_argument("--keep", type=Path, default=Path("build/fuzz"), help="where faulty files are kept")
    given = parser.parse_args()
    unknown = {*given.targets} - {*_NAMES}
    if unknown:
        parser.error(f"no target {', '.join(sorted(unknown))}; there are {', '.join(_NAMES)}")
    seed = random.SystemRandom().randrange(2**32) if given.seed is None else given.seed
    names = given.targets or list(_NAMES)
    given.keep.mkdir(parents=True, exist_ok=True)
    print(f"seed {seed}: {given.minutes:g} minutes over {', '.join(names)}", flush=True)
    return _run(names, random.Random(seed), given.minutes * 60, given.keep)


def _run(names: list[str], chance: random.Random, seconds: float, keep: Path) -> int:
    seen: Counter[tuple[str, str]] = Counter()
    kinds: set[tuple[str, str]] = set()
    with tempfile.TemporaryDirectory() as folder:
        good = corpus(Path(folder))
        for name in names:  # in turn: what one target leaves in memory does not count for the next
            end = time.monotonic() + seconds / len(names)
            while time.monotonic() < end:
                choice = Choice(seed=chance.randrange(2**32), times=chance.choice((1, 1, 2, 3, 8)))
                if name == PAIRS:
                    fault, outcome = attempt_pair(choice.seed)
                else:
                    fault, outcome = attempt(TARGETS[name], good, choice, Path(folder))
                seen[name, outcome if fault is None else "FAULT"] += 1
                if fault is not None and (kind := (name, _place(fault))) not in kinds:
                    kinds.add(kind)
                    kept = "" if name == PAIRS else f"; {_kept(name, good, choice, keep)}"
                    print(f"FAULT {name} {choice}: {fault.what!a} at {kind[1]}{kept}", flush=True)
            own = {outcome: count for (own, outcome), count in seen.items() if own == name}
            print(f"{name}: {sum(own.values())} tried, {own}", flush=True)
    print(f"{sum(seen.values())} tried, {len(kinds)} kinds of faults", flush=True)
    return min(len(kinds), 1)


def _kept(name: str, good: Mapping[str, bytes], choice: Choice, keep: Path) -> Path:
    target = TARGETS[name]
    kept = keep / f"{name}-{choice.seed}-{choice.times}{Path(target.file).suffix}"
    kept.write_bytes(spoilt(good[target.file], target.spoil, choice))
    return kept


def _place(fault: Fault) -> str:
    """Where it was raised, which tells one kind from another."""
    if fault.error is None:
        return fault.what[:20]
    frames = traceback.extract_tb(fault.error.__traceback__)
    ours = [frame for frame in frames if "/fx" in frame.filename and "/fuzz/" not in frame.filename]
    return f"{ours[-1].filename.rpartition('/')[2]}:{ours[-1].lineno}" if ours else type(fault.error).__name__


if __name__ == "__main__":
    sys.exit(main())
