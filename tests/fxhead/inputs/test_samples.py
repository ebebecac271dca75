"""``check --inputs`` with arrays, and ``--samples``: what is run, and what is refused with a reason."""

from __future__ import annotations

import contextlib
import io
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fxexport import export_onnx
from fxexport.subjects.samples import InputSpec, Samples
from fxhead.inputs.options import DataOptions
from fxhead.inputs.samples import open_data, take_data
from fxpasses.errors import FxHeadError

Run = Callable[..., Any]
SPEC = InputSpec(name="x", shape=(3, 4, 4), dtype="float32")
PROVIDERS = ("--providers", "cpu")


def images(count: int = 20, *shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((count, *(shape or (3, 4, 4)))).astype(np.float32)


Take = Callable[..., Samples]


@pytest.fixture
def take() -> Iterator[Take]:
    """Opens the samples in a file for a model with these inputs."""
    with contextlib.ExitStack() as until:

        def call(path: Path, *specs: InputSpec) -> Samples:
            options, given = DataOptions(path=str(path)), specs or (SPEC,)
            names = [tuple(spec.name for spec in given)]
            files = open_data(options, until)
            return take_data(files, options, given, names, seed=0, fixed_batch=None).samples

        yield call


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("save", [np.save, np.savez, np.savez_compressed], ids=lambda save: save.__name__)
def test_what_is_read_is_what_was_saved(take: Take, tmp_path: Path, save: Any, order: str) -> None:
    data = np.asarray(images(), order=order)
    path = tmp_path / ("data.npy" if save is np.save else "data.npz")
    save(path, data)
    samples = take(path)
    assert samples.count == 20
    for start, size in ((0, 5), (7, 13), (2, 3), (19, 1)):
        np.testing.assert_array_equal(samples.batch(start, size)[0], data[start : start + size])


def test_arrays_go_to_inputs_by_name(take: Take, tmp_path: Path) -> None:
    pair = {"b": images(6), "a": images(6, 2)}
    np.savez(tmp_path / "data.npz", **pair)
    specs = tuple(InputSpec(name=n, shape=pair[n].shape[1:], dtype="float32") for n in ("b", "a"))
    found = take(tmp_path / "data.npz", *specs)
    assert found.names == ("b", "a")
    for array, name in zip(found.batch(0, 6), ("b", "a"), strict=True):
        np.testing.assert_array_equal(array, pair[name])


def test_the_only_array_needs_no_name(take: Take, tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", whatever=images())
    assert take(tmp_path / "data.npz").count == 20


@pytest.mark.parametrize("kind", [np.float64, np.float16, ">f4"], ids=str)
def test_other_floats_are_cast(take: Take, tmp_path: Path, kind: Any) -> None:
    np.save(tmp_path / "data.npy", images().astype(kind))
    (array,) = take(tmp_path / "data.npy").batch(0, 20)
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array, images().astype(kind).astype(np.float32))


def with_value(value: float) -> np.ndarray:
    data = images().astype(np.float64)
    data[17, 2, 1, 3] = value
    return data


BAD = [
    (images(20, 3, 4, 5), SPEC, "has the shape 20x3x4x5, the model's 'x' takes Nx3x4x4"),
    (images(3, 4, 4), SPEC, "add the batch axis"),
    (images(0, 3, 4, 4), SPEC, "holds no samples"),
    (np.float32(3), SPEC, "holds no samples"),
    (images().astype(np.int32), SPEC, "holds int32, the model's 'x' takes float32"),
    (images(), InputSpec(name="x", shape=(3, 4, 4), dtype="int64"), "holds float32"),
    (np.array([[object()]]), SPEC, "holds objects, which only unpickling could read"),
    (np.array(["a"]), SPEC, "holds <U1, not numbers"),
    (np.zeros(3, [("a", "f4")]), SPEC, "not numbers"),
    (images().astype(complex), SPEC, "holds complex128"),
    (with_value(np.nan), SPEC, r"the value nan at [17, 2, 1, 3] is NaN"),
    (with_value(-np.inf), SPEC, r"at [17, 2, 1, 3] is NaN, infinite"),
    (with_value(1e300), SPEC, "beyond float32"),
    (np.full((20, 3, 4, 4), 300), InputSpec(name="x", shape=(3, 4, 4), dtype="uint8"), "is beyond uint8"),
    (
        np.full((20, 5), 7),
        InputSpec(name="x", shape=(5,), dtype="int64", limit=7),
        "is no index of 7 embeddings",
    ),
    (
        np.full((20, 5), -1),
        InputSpec(name="x", shape=(5,), dtype="int64", limit=7),
        "is no index of 7 embeddings",
    ),
]


@pytest.mark.parametrize("container", ["npy", "npz"])
@pytest.mark.parametrize(("data", "spec", "says"), BAD, ids=[says for *_, says in BAD])
def test_bad_arrays_are_refused(
    take: Take, tmp_path: Path, data: np.ndarray, spec: InputSpec, says: str, container: str
) -> None:
    path = tmp_path / f"data.{container}"
    np.save(path, data, allow_pickle=True) if container == "npy" else np.savez(path, x=data)
    with pytest.raises(FxHeadError) as caught:
        take(path, spec).batch(0, 20)
    assert says in str(caught.value)
    assert str(path) in str(caught.value)


def npy_bytes(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def test_damaged_files_are_refused(take: Take, tmp_path: Path) -> None:
    whole = npy_bytes(images())
    contents = {
        "cut.npy": whole[:-7],
        "header.npy": whole[:40],
        "nonsense.npy": b"nonsense" * 10,
        "empty.npy": b"",
        "cut.npz": b"PK\x03\x04" + whole,
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    members = {"cut.npz": whole[:-7], "longer.npz": whole + b"\0", "nonsense.npz": b"nonsense"}
    for name, content in members.items():
        with zipfile.ZipFile(tmp_path / f"member-{name}", "w") as archive:
            archive.writestr("x.npy", content)
    with zipfile.ZipFile(tmp_path / "none.npz", "w") as archive:
        archive.writestr("readme.txt", "no arrays")
    paths = sorted(tmp_path.iterdir())
    assert len(paths) == 9
    for path in paths:
        with pytest.raises(FxHeadError, match=path.name):
            take(path)


def claiming(path: Path, size: int) -> None:
    """Has the directory of an archive of one member say that it unpacks to so many bytes."""
    content = path.read_bytes()
    at = content.rindex(b"PK\x01\x02") + 24
    path.write_bytes(content[:at] + struct.pack("<I", size) + content[at + 4 :])


def test_an_archive_of_samples_is_no_bomb(take: Take, tmp_path: Path) -> None:
    whole = npy_bytes(images())
    cases = {
        "is compressed in a way that numpy": ({"x": whole}, zipfile.ZIP_BZIP2),
        "holds 65 arrays, more than the 64": (
            {f"x{index}": whole for index in range(65)},
            zipfile.ZIP_STORED,
        ),
        r"unpacks from .* to 4,000,000,000 bytes": ({"x": whole}, zipfile.ZIP_DEFLATED),
    }
    path = tmp_path / "data.npz"
    for says, (members, method) in cases.items():
        with zipfile.ZipFile(path, "w", method) as archive:
            for name, content in members.items():
                archive.writestr(f"{name}.npy", content)
        if method == zipfile.ZIP_DEFLATED:
            claiming(path, 4_000_000_000)
        with pytest.raises(FxHeadError, match=says):
            take(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", whole)
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("x.npy", npy_bytes(images(5)))
    with pytest.raises(FxHeadError, match="two arrays of one name"):
        take(path)


def test_a_pickle_in_an_array_is_not_run(take: Take, tmp_path: Path) -> None:
    class Boom:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "ran",))

    for name, save in (("data.npy", np.save), ("data.npz", np.savez)):
        save(tmp_path / name, np.array([Boom()], object))
        with pytest.raises(FxHeadError, match="objects"):
            take(tmp_path / name)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"a": images(6)}, "holds 'a', the model takes 'a', 'b'"),
        ({"a": images(6), "c": images(6)}, "holds 'a', 'c', the model takes 'a', 'b'"),
        ({"a": images(6), "b": images(5)}, "different numbers of samples"),
    ],
    ids=["missing", "other", "counts"],
)
def test_arrays_that_are_not_the_inputs_are_refused(
    take: Take, tmp_path: Path, arrays: dict[str, np.ndarray], says: str
) -> None:
    np.savez(tmp_path / "data.npz", **arrays)
    specs = [InputSpec(name=name, shape=(3, 4, 4), dtype="float32") for name in "ab"]
    with pytest.raises(FxHeadError) as caught:
        take(tmp_path / "data.npz", *specs)
    assert says in str(caught.value)


def test_all_samples_of_a_file_are_run(run: Run, net: Path) -> None:
    np.savez("data.npz", x=images(50, 3, 6, 7))
    done = run("check", "model.pt", "nets:build", "--inputs", "data.npz", "--json", *PROVIDERS)
    document = done.document
    assert document["inputs"]["samples"] == 50
    assert document["inputs"]["path"] == "data.npz"
    assert len(document["inputs"]["sha256"]) == 64
    assert document["reference"]["input_shapes"] == [[1, 3, 6, 7]]
    assert {item["samples"] for item in document["check"]["statistics"]} == {50}


def test_random_samples_are_as_many_as_asked_for(run: Run, net: Path) -> None:
    for count in ("1", "33"):
        options = ("--samples", count, "--input-shape", "1x3x6x6", *PROVIDERS)
        done = run("check", "model.pt", "model.pt", *options)
        assert done.code == 0, done.err
        samples = "1 random sample" if count == "1" else f"{count} random samples"
        assert f"inputs: {samples} (seed 0), x 3x6x6 float32" in done.out


@pytest.mark.parametrize("seed", ["-1", str(-(2**63))])
def test_a_seed_may_be_negative_as_torch_s_may(run: Run, net: Path, seed: str) -> None:
    done = run("check", "model.pt", "model.pt", "--seed", seed, "--input-shape", "1x3x6x6", *PROVIDERS)
    assert done.code == 0, done.err


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--samples", "0"), "0 is not in the range"),
        (("--samples", "9", "--inputs", "data.npy"), "no random ones"),
        (("--inputs", "gone.npz"), "no such file; give an .npz or .npy file, an image"),
        (("--inputs", "nets.py"), "is no .npy or .npz file"),
        (("--inputs", "data.npy", "--size", "32"), "is for images"),
        (("--mean", "0.5"), "is for images"),
        (("--inputs", "data.npy", "--input-shape", "1x3x8x8"), "has the shape 20x3x4x4"),
        (("--inputs", "wide.npy"), "does not take an input of 1x4x4x4"),
        (("--weights", "DEFAULT"), "files bring their own weights"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_options_that_do_not_go_together_are_refused(
    run: Run, net: Path, options: tuple[str, ...], says: str
) -> None:
    np.save("data.npy", images())
    np.save("wide.npy", images(4, 4, 4, 4))
    done = run("check", "model.pt", "model.pt", *options, *PROVIDERS)
    assert (done.code, done.out) == (2, "")
    assert says in done.err
    assert "Traceback" not in done.err


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 6)
        self.fc = nn.Linear(6, 4)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.fc(self.embedding(tokens).mean(1))


class Pixels(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 4)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.fc((pixels.float() / 255).mean((2, 3)))


@pytest.mark.parametrize(
    ("module", "example", "shown"),
    [
        (Tokens(), torch.zeros(2, 5, dtype=torch.int64), "tokens 5 int64"),
        (Pixels(), torch.zeros(2, 3, 8, 8, dtype=torch.uint8), "pixels 3x8x8 uint8"),
    ],
    ids=["tokens", "pixels"],
)
def test_inputs_that_are_no_floats(
    run: Run, folder: Path, module: nn.Module, example: torch.Tensor, shown: str
) -> None:
    export_onnx(module.eval(), example, "model.onnx")
    done = run("check", "model.onnx", "model.onnx", "--samples", "40", *PROVIDERS)
    assert done.code == 0, done.err
    assert f"40 random samples (seed 0), {shown}" in done.out


def test_an_open_shape_is_given_by_the_user_or_by_the_samples(run: Run, net: Path) -> None:
    shape = ("--input-shape", "1x3x16x16")
    assert run("rewrite", "model.pt", "--to", "conv", *shape, *PROVIDERS).code == 0
    import onnx

    names = ("model.linear.onnx", "model.conv.onnx")
    for name in names:
        model = onnx.load(name)
        for axis in (2, 3):
            model.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = f"d{axis}"
        del model.graph.value_info[:]
        onnx.save(model, name)
    done = run("check", *names, *PROVIDERS)
    assert done.code == 2
    assert "--input-shape" in done.err
    assert run("check", *names, *shape, *PROVIDERS).code == 0
    np.save("data.npy", images(9, 3, 5, 5))
    assert run("check", *names, "--inputs", "data.npy", *PROVIDERS).code == 0
    assert run("check", "model.pt", names[1], "--inputs", "data.npy", *PROVIDERS).code == 0
