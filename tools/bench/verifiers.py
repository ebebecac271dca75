"""Who accepts broken models and who refuses good ones: fxhead beside the tools that people use today.

Each family's small member is written as two ONNX files, linear and convolution form: the good pair. The
second file is damaged in every way that the test suite knows (``tests/fxexport/mutations``): broken pairs,
but for those of which an evaluation in float64 shows that nothing changed. Every verifier judges every pair
on its own defaults:

- **fxhead**: ``certify``; ``agrees`` counts as accepted, ``inconclusive`` as refused, and is counted apart.
- **polygraphy**: ``CompareFunc.simple`` at its defaults, on the inputs of its default data loader.
- **onnxsim**: ``model_checking.compare`` with three checks.
- **rtol, atol** and **3 decimals**: NumPy on the outputs of standard normal images.

    python tools/bench/verifiers.py [FAMILY ...] [--init default|calibrated|both] [--json FILE]
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import dataclasses
import importlib.util
import io
import json
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

if __name__ == "__main__":  # a benchmark runs from a checkout, installed or not
    root = Path(__file__).resolve().parents[2]
    sys.path[:0] = [str(root / folder) for folder in ("", "export", "tools")]

import numpy as np
import onnx
import onnxruntime
import torch

from fxexport import Verdict, export_onnx
from fxexport.certificate import Certifier
from fxpasses import FxHeadError, rewrite
from tests.fxexport.mutations.families import FAMILIES, build
from tests.fxexport.mutations.graphs import GRAPH_DAMAGES, damage_graph_structure
from tests.fxexport.mutations.judge import Judge
from tests.fxexport.mutations.weights import WEIGHT_DAMAGES, NotHere, damage_graph, site_names

Verifier = Callable[[Path, Path], bool]
SEVEN = ("random", "reversed", "swapped_channels", "zero_bias", "copied_row", "one_weight", "bfloat16")
"""The kinds of damage of the first study of these tools."""
BY_PLACE = "output_renamed"
"""No damage: outputs of other names belong together by their places."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """One verifier's answer on one pair.

    Attributes:
        family: which model.
        init: ``default`` or ``calibrated``.
        kind: kind of damage, ``good`` for none.
        verifier: who answered.
        is_accepted: the answer.
        verdict: fxhead's own word.
        seconds: time that it took.
    """

    family: str
    init: str
    kind: str
    verifier: str
    is_accepted: bool
    verdict: str | None
    seconds: float


def pairs(name: str, init: str, folder: Path) -> Iterator[tuple[str, Path, Path]]:
    """Kind of damage, reference and candidate; the good pair first."""
    family, model = FAMILIES[name], build(name, is_calibrated=init == "calibrated")
    conv = rewrite(model, to="conv").module
    example = tuple(x[:2] for x in family.example(8))
    linear = export_onnx(model, example, folder / "linear.onnx")
    good = export_onnx(conv, example, folder / "conv.onnx")
    yield "good", linear, good
    proto, sites = onnx.load(good), site_names(conv)
    judge = Judge(model, onnx.load(linear), example)
    for kind in (*WEIGHT_DAMAGES, *(kind for kind in GRAPH_DAMAGES if kind not in WEIGHT_DAMAGES)):
        try:
            bad = damage_graph(proto, sites, kind) if kind in WEIGHT_DAMAGES else None
            bad = damage_graph_structure(proto, kind) if bad is None else bad
        except (NotHere, KeyError):
            continue
        if kind == BY_PLACE or _changes_nothing(judge, bad):
            continue
        path = folder / f"{kind}.onnx"
        onnx.save(bad, path)
        yield kind, linear, path


def _changes_nothing(judge: Judge, damaged: onnx.ModelProto) -> bool:
    try:
        return judge.is_same_graph(damaged)
    except (RuntimeError, ValueError, KeyError, TypeError):
        return False  # it does not run


def fxhead(certifier: Certifier, reference: Path, candidate: Path) -> str:
    """The verdict, or that the two cannot be compared."""
    try:
        return str(certifier.certify(reference, candidate).verdict)
    except FxHeadError:
        return "error"


def by_outputs(agree: Callable[[np.ndarray, np.ndarray], bool]) -> Verifier:
    """A verifier that runs both files on the same normal images and compares all outputs."""

    def verify(reference: Path, candidate: Path) -> bool:
        sessions = [_session(path) for path in (reference, candidate)]
        if len({tuple(sorted(o.name for o in s.get_outputs())) for s in sessions}) != 1:
            return False
        names = [output.name for output in sessions[0].get_outputs()]
        rng = np.random.default_rng(0)
        feeds = {
            value.name: rng.standard_normal((4, *value.shape[1:])).astype(np.float32)
            for value in sessions[0].get_inputs()
        }
        left, right = (session.run(names, feeds) for session in sessions)
        return all(a.shape == b.shape and agree(a, b) for a, b in zip(left, right, strict=True))

    return verify


def _session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _same_decimals(a: np.ndarray, b: np.ndarray) -> bool:
    try:
        np.testing.assert_array_almost_equal(a, b, decimal=3)
    except AssertionError:
        return False
    return True


def polygraphy(reference: Path, candidate: Path) -> bool:
    """Polygraphy's comparison at its defaults."""
    from polygraphy.backend.onnxrt import OnnxrtRunner, SessionFromOnnx
    from polygraphy.comparator import Comparator, CompareFunc
    from polygraphy.logger import G_LOGGER

    with G_LOGGER.verbosity(G_LOGGER.CRITICAL):
        runners = [OnnxrtRunner(SessionFromOnnx(str(path))) for path in (reference, candidate)]
        results = Comparator.run(runners)
        return bool(Comparator.compare_accuracy(results, compare_func=CompareFunc.simple()))


def onnxsim(reference: Path, candidate: Path) -> bool:
    """Onnxsim's own check of what it simplified, with three rounds."""
    from onnxsim import model_checking

    shapes = {
        value.name: [1, *(dim.dim_value for dim in value.type.tensor_type.shape.dim[1:])]
        for value in onnx.load(reference).graph.input
    }
    with contextlib.redirect_stdout(io.StringIO()):
        return bool(model_checking.compare(str(candidate), str(reference), 3, shapes))


PEERS: dict[str, Verifier] = {
    "polygraphy": polygraphy,
    "onnxsim": onnxsim,
    "rtol 1e-3 atol 1e-5": by_outputs(lambda a, b: bool(np.allclose(a, b, rtol=1e-3, atol=1e-5))),
    "rtol 1e-5 atol 1e-5": by_outputs(lambda a, b: bool(np.allclose(a, b, rtol=1e-5, atol=1e-5))),
    "3 decimals": by_outputs(_same_decimals),
}


def installed() -> dict[str, Verifier]:
    """The peers that can be run here."""
    needs = ("polygraphy", "onnxsim")
    return {name: run for name, run in PEERS.items() if name not in needs or importlib.util.find_spec(name)}


def judge_family(name: str, init: str, peers: dict[str, Verifier]) -> Iterator[Judgement]:
    """Every verifier on every pair of one family."""
    certifier = Certifier(FAMILIES[name].example(8))
    with tempfile.TemporaryDirectory() as folder:
        for kind, reference, candidate in pairs(name, init, Path(folder)):
            start = time.perf_counter()
            verdict = fxhead(certifier, reference, candidate)
            accepted = verdict not in (Verdict.BROKEN, Verdict.INCONCLUSIVE, "error")
            row = Judgement(
                family=name,
                init=init,
                kind=kind,
                verifier="fxhead",
                is_accepted=accepted,
                verdict=verdict,
                seconds=time.perf_counter() - start,
            )
            yield row
            for peer, verify in peers.items():
                start = time.perf_counter()
                try:
                    accepted = verify(reference, candidate)
                except Exception:  # noqa: BLE001 - a tool that cannot compare has not accepted
                    accepted = False
                spent = time.perf_counter() - start
                yield dataclasses.replace(
                    row, verifier=peer, is_accepted=accepted, verdict=None, seconds=spent
                )


def table(rows: list[Judgement]) -> Iterator[str]:
    """Broken pairs accepted and good ones refused, by verifier and initialisation."""
    inits = list(dict.fromkeys(row.init for row in rows))
    yield f"{'verifier':22}" + "".join(f"{f'{init}: broken accepted':>30} {'of seven':>10}" for init in inits)
    for verifier in dict.fromkeys(row.verifier for row in rows):
        line, refused, good = f"{verifier:22}", 0, 0
        for init in inits:
            own = [row for row in rows if (row.verifier, row.init) == (verifier, init)]
            broken = [row for row in own if row.kind != "good"]
            seven = [row for row in broken if row.kind in SEVEN]
            line += f"{sum(r.is_accepted for r in broken):>22} / {len(broken):<5}"
            line += f"{sum(r.is_accepted for r in seven):>6} / {len(seven):<4}"
            good += len(own) - len(broken)
            refused += sum(not row.is_accepted for row in own if row.kind == "good")
        seconds = sum(row.seconds for row in rows if row.verifier == verifier)
        yield f"{line}   good refused {refused} / {good}   {seconds:6.1f} s"
    verdicts = collections.Counter(row.verdict for row in rows if row.verdict and row.kind != "good")
    yield f"fxhead on broken pairs: {', '.join(f'{n} {word}' for word, n in verdicts.most_common())}"


def main() -> int:
    """Prints the table; 1 where fxhead accepted a broken pair or refused a good one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("families", nargs="*", default=list(FAMILIES), metavar="FAMILY")
    parser.add_argument("--init", choices=("default", "calibrated", "both"), default="both")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every judgement as JSON as well")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # of the peers' about their own future, and of NaN that they divide
    peers, rows = installed(), []
    for missing in (name for name in PEERS if name not in peers):
        print(f"{missing} is not installed: left out", file=sys.stderr)
    for name in options.families:
        for init in ("default", "calibrated") if options.init == "both" else (options.init,):
            rows.extend(judge_family(name, init, peers))
            print(f"{name}, {init}: done", file=sys.stderr, flush=True)
    print("\n".join(table(rows)))
    if options.json:
        options.json.write_text(json.dumps([dataclasses.asdict(row) for row in rows], indent=2) + "\n")
    wrong = [r for r in rows if r.verifier == "fxhead" and r.is_accepted != (r.kind == "good")]
    for row in wrong:
        print(f"fxhead is wrong: {row.family}, {row.init}, {row.kind}: {row.verdict}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
