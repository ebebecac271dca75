"""Programs that torch wrote are read as torch itself reads them, though it never sees the file."""

from __future__ import annotations

import ast
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.export import Dim, ExportedProgram
from torch.nn import functional as F

from fxexport.untrusted import program_archive
from fxexport.untrusted.programs import as_module, read_program

OLD = Path(__file__).parent / "torch_2_11"
"""Written by torch 2.11, the oldest that is supported."""


class Net(nn.Module):
    """Batch norms, a constant, a buffer that is not stored, and a weight that is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.BatchNorm2d(4)
        self.fc, self.again = nn.Linear(4, 4), nn.Linear(4, 4)
        self.again.weight = self.fc.weight
        self.register_buffer("scale", torch.tensor([2.0]), persistent=False)
        self.constant = torch.tensor([1.0, 2.0, 3.0, 4.0])

    def forward(self, x: torch.Tensor, *, mask: torch.Tensor | None = None, mode: str = "mean") -> Any:
        """Nested outputs; a size decides."""
        y = F.relu(self.norm(self.conv(x)))
        if x.shape[2] % 2 == 0:
            y = y * self.scale
        y = self.again(self.fc(torch.flatten(F.adaptive_avg_pool2d(y, 1), 1))) + self.constant
        return {"logits": y if mask is None else y * mask, "two": [y, y + 1]}


class Counts(nn.Module):
    """What a value decides: sizes without a bound, and branches."""

    def forward(self, x: torch.Tensor) -> Any:
        """A size that only running tells, and a branch that only running takes."""
        count = x.sum().to(torch.int64).item()
        torch._check(count >= 0)
        torch._check(count < 100)
        return torch.zeros(count) + 1, torch.cond(x.sum() > 0, lambda x: x + 1, lambda x: x - 1, (x,))


class Steps(nn.Module):
    """A buffer that is changed."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("steps", torch.zeros(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Without gradients in between."""
        self.steps.add_(1)
        with torch.no_grad():
            y = x + self.steps
        return y * 2


class Best(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What torch calls ``torch.return_types.max``."""
        return x.max(1)


X = torch.randn(2, 3, 16, 12)
AUTO = Dim.AUTO
PROGRAMS: dict[str, Callable[[], ExportedProgram]] = {
    "a fixed size": lambda: torch.export.export(Net().eval(), (X,)),
    "open sizes": lambda: torch.export.export(
        Net().eval(), (X,), dynamic_shapes=({0: AUTO, 2: AUTO, 3: AUTO},)
    ),
    "keywords": lambda: torch.export.export(Net().eval(), (X,), {"mask": torch.ones(2, 4), "mode": "it"}),
    "training": lambda: torch.export.export(Net(), (X,), dynamic_shapes=({0: Dim("b", min=2)},)),
    "strict": lambda: torch.export.export(Net().eval(), (X,), strict=True),
    "core operators": lambda: torch.export.export(Net().eval(), (X,)).run_decompositions(),
    "torch's own results": lambda: torch.export.export(Best(), (torch.ones(2, 3),)),
    "sizes that running tells": lambda: torch.export.export(Counts(), (torch.ones(3),)),
    "a buffer that changes": lambda: torch.export.export(Steps(), (torch.ones(2),)),
    "bfloat16, channels last": lambda: torch.export.export(
        Net().eval().to(torch.bfloat16, memory_format=torch.channels_last),
        (X.to(torch.bfloat16, memory_format=torch.channels_last),),
    ),
}


def save(program: ExportedProgram, path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, of weights that share their storage
        torch.export.save(program, path)


def require_same(path: Path) -> None:
    ours, theirs = read_program(path), torch.export.load(path)
    assert str(ours.graph) == str(theirs.graph)
    assert str(ours.graph_signature) == str(theirs.graph_signature)
    assert str(ours.range_constraints) == str(theirs.range_constraints)
    for held, wanted in ((ours.state_dict, theirs.state_dict), (ours.constants, theirs.constants)):
        assert [*held] == [*wanted]
        for mine, other in zip(held.values(), wanted.values(), strict=True):
            assert (type(mine), mine.dtype, mine.stride()) == (type(other), other.dtype, other.stride())
            assert mine.requires_grad == other.requires_grad
            assert torch.equal(mine, other)
    assert ours._guards_code == [ast.unparse(ast.parse(guard)) for guard in theirs._guards_code]
    theirs._guards_code = ours._guards_code
    assert as_module(ours).code == as_module(theirs).code
    for mine, other in zip(ours.graph.nodes, theirs.graph.nodes, strict=True):
        assert mine.meta.get("stack_trace") == other.meta.get("stack_trace")
        assert mine.meta.get("nn_module_stack") == other.meta.get("nn_module_stack")


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_is_what_torch_reads(name: str, tmp_path: Path) -> None:
    try:
        save(PROGRAMS[name](), tmp_path / "model.pt2")
    except NotImplementedError as error:  # torch 2.11 does not save its own results
        pytest.skip(str(error))
    require_same(tmp_path / "model.pt2")


@pytest.mark.parametrize("path", sorted(OLD.glob("*.pt2")), ids=lambda path: path.stem)
@pytest.mark.filterwarnings("ignore")
def test_a_program_of_an_older_torch_is_what_torch_reads(path: Path) -> None:
    require_same(path)


def test_there_are_older_programs() -> None:
    assert len([*OLD.glob("*.pt2")]) == 2


def test_torch_is_handed_no_bytes_and_weights_share_their_storage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(PROGRAMS["a fixed size"](), tmp_path / "model.pt2")

    def unpickled(*arguments: object, **options: object) -> None:
        raise AssertionError("torch unpickles")

    for name in ("load", "export.load"):
        monkeypatch.setattr(f"torch.{name}", unpickled)
    program = read_program(tmp_path / "model.pt2")
    first, second = (program.state_dict[name] for name in ("fc.weight", "again.weight"))
    assert first.data_ptr() == second.data_ptr()
    assert str(tmp_path / "model.pt2") in Path("/proc/self/maps").read_text()


def test_every_part_is_needed(tmp_path: Path) -> None:
    """Else the comparison of parts with each other would prove nothing."""
    save(PROGRAMS["keywords"](), tmp_path / "model.pt2")
    parts = program_archive.read_parts(program_archive.open_archive(tmp_path / "model.pt2", "model.pt2"))
    assert parts.samples is not None
    assert [*parts.samples[1]] == ["mask", "mode"]
    assert {"fc.weight", "norm.running_mean"} <= {*parts.weights}
    assert {"scale", "constant"} <= {*parts.constants}


def test_reading_another_file_does_not_import_torch_s_reader_of_programs() -> None:
    code = "import sys, fxexport.untrusted.programs; print('torch._export.serde.serialize' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "False"
