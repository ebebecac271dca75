"""``tools/dev fuzz [--minutes N] [--seed N] [TARGET…]``: a long run, each fault with how to see it again."""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

from fuzz.corpus import corpus
from fuzz.mutate import Choice, spoilt
from fuzz.targets import TARGETS, Fault, attempt


def main() -> int:
    """How many kinds of faults there are, at most 1."""
    parser = argparse.ArgumentParser(prog="tools/dev fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)}; default: all")
    parser.add_argument("--minutes", type=float, default=60, help="how long, all targets together")
    parser.add_argument("--seed", type=int, default=None, help="of what is chosen; default: another")
    parser.add_argument("--keep", type=Path, default=Path("build/fuzz"), help="where faulty files are kept")
    given = parser.parse_args()
    unknown = {*given.targets} - {*TARGETS}
    if unknown:
        parser.error(f"no target {', '.join(sorted(unknown))}; there are {', '.join(TARGETS)}")
    seed = random.SystemRandom().randrange(2**32) if given.seed is None else given.seed
    names = given.targets or list(TARGETS)
    given.keep.mkdir(parents=True, exist_ok=True)
    print(f"seed {seed}: {given.minutes:g} minutes over {', '.join(names)}", flush=True)
    return _run(names, random.Random(seed), given.minutes * 60, given.keep)


def _run(names: list[str], chance: random.Random, seconds: float, keep: Path) -> int:
    seen: Counter[tuple[str, str]] = Counter()
    faults: dict[tuple[str, str], str] = {}
    with tempfile.TemporaryDirectory() as folder:
        good = corpus(Path(folder))
        for name in names:  # in turn: what one target leaves in memory does not count for the next
            end = time.monotonic() + seconds / len(names)
            while time.monotonic() < end:
                choice = Choice(seed=chance.randrange(2**32), times=chance.choice((1, 1, 2, 3, 8)))
                target = TARGETS[name]
                fault, outcome = attempt(target, good, choice, Path(folder))
                seen[name, outcome if fault is None else "FAULT"] += 1
                kind = None if fault is None else (name, _place(fault))
                if fault is not None and kind is not None and kind not in faults:
                    faults[kind] = fault.what
                    kept = keep / f"{name}-{choice.seed}-{choice.times}{Path(target.file).suffix}"
                    kept.write_bytes(spoilt(good[target.file], target.spoil, choice))
                    print(f"FAULT {name} {choice}: {fault.what!a} at {kind[1]}; {kept}", flush=True)
            own = {outcome: count for (own, outcome), count in seen.items() if own == name}
            print(f"{name}: {sum(own.values())} files, {own}", flush=True)
    print(f"{sum(seen.values())} files, {len(faults)} kinds of faults", flush=True)
    return min(len(faults), 1)


def _place(fault: Fault) -> str:
    """Where it was raised, which tells one kind from another."""
    if fault.error is None:
        return fault.what[:20]
    frames = traceback.extract_tb(fault.error.__traceback__)
    ours = [frame for frame in frames if "/fx" in frame.filename and "/fuzz/" not in frame.filename]
    return f"{ours[-1].filename.rpartition('/')[2]}:{ours[-1].lineno}" if ours else type(fault.error).__name__


if __name__ == "__main__":
    sys.exit(main())
