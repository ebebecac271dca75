"""What a certificate is about, where that is less than all that a user may take it for."""

from __future__ import annotations

from collections.abc import Iterator

from fxexport.proof.pairing.outputs import PairedOutputs, is_by_position
from fxexport.subjects.module_subject import ModuleSubject
from fxexport.subjects.onnx_subject import OnnxSubject
from fxexport.subjects.subject import Subject


def scope_of(
    left: Subject, right: Subject, outputs: PairedOutputs, batches: tuple[int, ...]
) -> tuple[str, ...]:
    """Sentences on fixed batches and sizes, on outputs of other names, and on what is no tensor."""
    return tuple(_sentences(left, right, outputs, batches))


def _sentences(
    left: Subject, right: Subject, outputs: PairedOutputs, batches: tuple[int, ...]
) -> Iterator[str]:
    sides = (("the reference", left), ("the candidate", right))
    for who, side in sides:
        if side.fixed_batch is not None:
            yield f"{who} takes batches of {side.fixed_batch} alone"
        if isinstance(side, OnnxSubject):
            for name, shape in zip(side.input_names, side.input_shapes, strict=True):
                sizes = shape[1:] or shape
                if sizes and None not in sizes:
                    yield f"{who} takes {name!r} of {'x'.join(map(str, sizes))} alone"
        if isinstance(side, ModuleSubject) and side.others:
            yield f"what {who} gives beside tensors is not compared: {', '.join(side.others)}"
        if isinstance(side, OnnxSubject) and side.is_quantised:
            yield f"{who} is run as it is written: ONNX Runtime's integer kernels round otherwise"
    if batches == (1,) and all(side.fixed_batch is None for _, side in sides):
        yield "the reference runs on batches of 1 alone, whatever it declares"
    names = left.input_names, right.input_names
    if names[0] != names[1] and {*names[0]} == {*names[1]}:
        yield f"inputs are paired by their names, though they stand in another order: {', '.join(names[1])}"
    elif any(own != other and own in names[1] for own, other in zip(*names, strict=False)):
        pairs = (f"{own!r} with {other!r}" for own, other in zip(*names, strict=False))
        yield f"inputs are paired by their positions, in which their names do not agree: {', '.join(pairs)}"
    if is_by_position(left, outputs, right):
        pairs = (f"{name!r} with {right.output_names[j]!r}" for name, _, j in outputs)
        yield f"outputs are paired by their positions: {', '.join(pairs)}"
