"""Every sample decides: further ones than the proof needs are run part by part, and each counts once."""

from __future__ import annotations

import numpy as np
import onnx.parser
import pytest
import torch
from torch import nn

from fxexport import Status, Verdict, certify, export_onnx
from fxexport.proof.measured.batches import parts_of
from fxexport.proof.measured.decision import FLIP_LIMIT, OutputTally
from fxexport.proof.measured.rounding import OutputCheck
from fxexport.subjects.onnx_subject import OnnxSubject
from fxexport.subjects.samples import InputSpec, RandomRows, Samples, random_samples
from fxpasses.errors import CheckError
from tests.fxexport.pairs import small_pair


def images(count: int) -> torch.Tensor:
    return torch.randn(count, 3, 9, 9, generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Both forms of a small model as ONNX files."""
    folder = tmp_path_factory.mktemp("forms")
    return tuple(
        export_onnx(module, images(2), folder / f"{name}.onnx")
        for name, module in zip(("linear", "conv"), small_pair(), strict=True)
    )


@pytest.mark.parametrize("count", [1, 3, 8, 9, 100])
@pytest.mark.parametrize("kind", ["modules", "files", "mixed"])
def test_every_sample_is_judged_once(files, kind, count):
    module, conv = small_pair()
    pair = {"modules": (module, conv), "files": files, "mixed": (module, files[1])}[kind]
    certificate = certify(*pair, images(count))
    assert certificate.is_accepted, certificate.reason
    (record,) = certificate.statistics
    assert record.samples == certificate.decision.covered.samples == count
    assert record.values == max(count, 8) * 5
    assert (record.top1_agreement, record.top1_certified) == (1.0, 1.0)


class Clamped(nn.Module):
    """The same function but for one image, whose features lie beyond what the clamp lets through."""

    def __init__(self, module: nn.Module, limit: float) -> None:
        super().__init__()
        self.module, self.limit = module, limit

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.clamp(self.module(x), -self.limit, self.limit)


def test_a_difference_in_a_late_sample_is_found_and_numbered():
    module, _ = small_pair()
    data = images(60)
    data[50] *= 1000
    with torch.no_grad():
        ordinary = module(data[:50]).abs().max().item()
    certificate = certify(module, Clamped(module, 2 * ordinary), data)
    assert certificate.verdict is Verdict.BROKEN
    assert certificate.rounding.status is Status.FAILED
    failure = next(f for f in certificate.rounding.failures if f.index is not None)
    assert failure.index[0] == 50
    early = certify(module, Clamped(module, 2 * ordinary), data[:50])
    what = early.rounding.failures[0].what  # a search finds it without that sample
    assert ", on the samples times 2^" in what


class Counted:
    """Rows that note how many were read at once."""

    def __init__(self, array: np.ndarray) -> None:
        self._array, self.shape, self.dtype = array, array.shape, array.dtype
        self.most, self.read = 0, 0

    def __getitem__(self, rows: slice) -> np.ndarray:
        self.most = max(self.most, rows.stop - rows.start)
        self.read += rows.stop - rows.start
        return self._array[rows]


def test_samples_are_read_some_at_a_time(files):
    rows = Counted(images(500).numpy())
    certificate = certify(*files, Samples(names=(), rows=(rows,)))
    assert certificate.verdict is Verdict.PROVED
    assert rows.most <= 64
    assert rows.read == 500


def test_a_part_of_large_samples_is_small(files):
    class Large(Counted):
        def __getitem__(self, rows: slice) -> np.ndarray:
            super().__getitem__(rows)
            return np.zeros((rows.stop - rows.start, 3, 9, 9), np.float32)

    large = Large(np.zeros((40, 3, 9, 9), np.float32))
    large.shape = (40, 3, 1000, 1000)
    sides = [OnnxSubject(path) for path in files]
    parts = list(parts_of(Samples(names=(), rows=(large,)), *sides, (1, 2, 5)))
    assert [part.fresh for part in parts] == [8, 8, 8, 8, 8]
    assert [part.start for part in parts] == [0, 8, 16, 24, 32]


def test_a_program_for_one_batch_size_gets_no_other(tmp_path):
    module, conv = small_pair()
    paths = [
        export_onnx(side, images(4), tmp_path / f"{index}.onnx", dynamic_batch=False)
        for index, side in enumerate((module, conv))
    ]
    certificate = certify(*paths, images(10))
    assert certificate.verdict is Verdict.PROVED, certificate.reason
    (record,) = certificate.statistics
    assert (record.batches, record.samples) == ((4,), 10)


def test_a_reference_for_one_batch_size_is_run_at_that_size(tmp_path):
    module, conv = small_pair()
    fixed = export_onnx(module, images(4), tmp_path / "fixed.onnx", dynamic_batch=False)
    free = export_onnx(conv, images(4), tmp_path / "free.onnx")
    for pair in ((fixed, free), (free, fixed)):
        found = certify(*pair, images(10))
        assert found.verdict is Verdict.PROVED, found.reason
        assert found.statistics[0].batches == (4,)


def tie(margin: float) -> tuple[nn.Module, nn.Module]:
    """A model with two classes that are nearly tied, and one in which the other one wins."""
    pair = []
    for sign in (1, -1):
        module, _ = small_pair()
        with torch.no_grad():
            module.fc.weight[1] = module.fc.weight[0]
            module.fc.bias[:2] = module.fc.bias.max() + 10
            module.fc.bias[1] += sign * margin
        pair.append(module)
    return pair[0], pair[1]


def test_flips_of_nearly_tied_classes_are_counted_and_listed():
    one, other = tie(1e-3)
    certificate = certify(one, other, images(30))
    assert certificate.verdict is Verdict.BROKEN
    (record,) = certificate.statistics
    assert (record.flips, record.top1_agreement, record.top1_certified) == (30, 0.0, 0.0)
    assert [flip.sample for flip in certificate.flips] == list(range(30))
    assert {(flip.reference_class, flip.candidate_class) for flip in certificate.flips} == {(1, 0)}
    assert all(0 < flip.margin < 2e-3 for flip in certificate.flips)


def test_a_tie_is_not_certified():
    one, _ = tie(1e-9)
    certificate = certify(one, one, images(30))
    assert certificate.verdict is Verdict.PROVED
    assert certificate.statistics[0].top1_certified == 0.0


def compared(reference: np.ndarray, candidate: np.ndarray, bound: np.ndarray | None) -> OutputCheck:
    return OutputCheck(
        name="logits",
        reference=reference,
        candidate=candidate,
        bound=bound,
        overflow=np.zeros(reference.shape, np.bool_),
        unit=2.0**-24,
    )


def test_flips_are_listed_up_to_a_limit_and_all_are_counted():
    tally = OutputTally(output="logits", provider="cpu", precision="fp32")
    a = np.tile([1.0, 0.0], (FLIP_LIMIT + 7, 1))
    bound = np.zeros_like(a)
    check = compared(a, a[:, ::-1], bound)
    tally.add(check, (len(a),), "fp32", start=5, fresh=len(a))
    record = tally.record()
    assert (record.flips, record.samples) == (FLIP_LIMIT + 7, FLIP_LIMIT + 7)
    assert len(tally.flips) == len(tally.unexplained) == FLIP_LIMIT
    assert tally.flips[0].sample == 5
    assert record.top5_agreement is None


@pytest.mark.parametrize(
    ("candidate", "top1", "top5"),
    [
        ([6, 5, 4, 3, 2, 1], 1.0, 1.0),
        ([5, 6, 4, 3, 2, 1], 0.0, 1.0),
        ([6, 5, 4, 3, 1, 2], 1.0, 0.0),
    ],
)
def test_top_five_are_a_set(candidate, top1, top5):
    tally = OutputTally(output="logits", provider="cpu", precision="fp32")
    reference = np.array([[6.0, 5, 4, 3, 2, 1]])
    check = compared(reference, np.array([candidate], float), None)
    tally.add(check, (1,), "fp32", start=0, fresh=1)
    record = tally.record()
    assert (record.top1_agreement, record.top5_agreement, record.top1_certified) == (top1, top5, None)


def spec(dtype: str, *shape: int | None, limit: int | None = None) -> InputSpec:
    return InputSpec(name="x", shape=shape, dtype=dtype, limit=limit)


@pytest.mark.parametrize(
    ("given", "low", "high"),
    [
        (spec("float32", 4, 4), -6, 6),
        (spec("float16", 4), -6, 6),
        (spec("uint8", 8, 8), 0, 255),
        (spec("int8", 8, 8), -128, 127),
        (spec("bool", 9), 0, 1),
        (spec("int64", 12, limit=7), 0, 6),
        (spec("int32", 12, limit=1), 0, 0),
    ],
    ids=lambda value: getattr(value, "dtype", None),
)
def test_random_samples_lie_in_the_range_that_an_input_takes(given, low, high):
    samples = random_samples((given,), 200, seed=3)
    (array,) = samples.batch(0, 200)
    assert (array.shape, array.dtype) == ((200, *given.shape), np.dtype(given.dtype))
    assert low <= array.min() <= array.max() <= high
    if high > 1:
        assert array.max() > (low + high) / 2
    np.testing.assert_array_equal(random_samples((given,), 20, seed=3).batch(10, 10)[0], array[10:20])
    if high:
        assert not np.array_equal(random_samples((given,), 200, seed=4).batch(0, 200)[0], array)


@pytest.mark.parametrize(
    "given", [spec("float32", 3, None), spec("int64", 5), InputSpec(name="x", shape=None, dtype="float32")]
)
def test_an_open_shape_or_range_is_an_error(given):
    with pytest.raises(CheckError, match="give inputs"):
        random_samples((given,), 8, seed=0)


def test_files_without_inputs_are_refused(tmp_path):
    path = tmp_path / "constant.onnx"
    path.write_bytes(
        onnx.parser.parse_model(
            '<ir_version: 8, opset_import: ["" : 17]> '
            "g () => (float[2] y) { y = Constant <value_floats = [1.0, 2.0]> () }"
        ).SerializeToString()
    )
    with pytest.raises(CheckError, match="no input"):
        certify(path, path)


def test_random_samples_take_no_memory_until_they_are_read():
    samples = random_samples((spec("float32", 3, 1000, 1000),), 10**6, seed=0)
    assert isinstance(samples.rows[0], RandomRows)
    assert samples.batch(999_998, 1)[0].shape == (1, 3, 1000, 1000)


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 6)
        self.fc = nn.Linear(6, 4)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.fc(self.embedding(tokens).mean(1))


def test_tokens_lie_below_the_number_of_embeddings(tmp_path):
    path = export_onnx(Tokens().eval(), torch.zeros(2, 5, dtype=torch.int64), tmp_path / "tokens.onnx")
    (found,) = OnnxSubject(path).inputs
    assert (found.shape, found.dtype, found.limit) == ((5,), "int64", 11)
    assert certify(path, path).verdict is Verdict.PROVED


def test_tokens_that_are_handed_on_many_times_are_those_of_the_input(tmp_path):
    """Of a thousand copies, each asked for the next one's limit, Python had no stack left."""
    path, count = tmp_path / "tokens.onnx", 1100
    body = " ".join(f"t{i + 1} = Identity (t{i})" for i in range(count))
    head = "x = Gather (table, tN) f = ReduceMean <axes = [1], keepdims = 0> (x)".replace("N", str(count))
    text = f"g (int64[n,5] t0) => (float[n,6] f) <float[11,6] table> {{ {body} {head} }}"
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 13]> {text}')
    del model.graph.value_info[:]
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((11, 6), np.float32), "table"))
    onnx.save(model, path)
    (found,) = OnnxSubject(path).inputs
    assert found.limit == 11
