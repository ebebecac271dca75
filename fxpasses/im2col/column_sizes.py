"""Whether the sizes of a view make a map of columns: as many rows and patches a row as there are."""

from __future__ import annotations

import dataclasses
from typing import Any

from torch.fx import Node

from fxpasses.im2col.patches import Patches, quotient_of
from fxpasses.miss_codes import MissCode
from fxpasses.report import Problem
from fxpasses.vocabulary.constants import constant_of
from fxpasses.vocabulary.handlers import same_size
from fxpasses.vocabulary.ops import Affine, Elementwise, Permute, Product, Unfold
from fxpasses.vocabulary.sizes import is_shape_value, size_of
from fxpasses.vocabulary.vocabulary import Vocabulary

BATCH, NUMBERS, PATCHES, OUTPUTS, HEIGHT, WIDTH = "N", "K", "L", "O", "H", "W"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """What is known of the sizes of the map that an unfold reads.

    Attributes:
        extents: its height and width, or None.
        batch: its batch where the program fixes it, else None.
    """

    extents: tuple[int, int] | None = None
    batch: int | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MapSizes:
    """Judges the sizes that make a map of the columns of one unfold.

    Attributes:
        unfold: the node that makes the columns.
        known: what is known of the map that it reads.
        is_batched: whether the columns have a batch axis.
    """

    unfold: Node
    op: Unfold
    vocabulary: Vocabulary
    known: Sizes
    is_batched: bool

    def of_view(self, node: Node, sizes: dict[str, Any], outputs: int) -> Problem | None:
        """Why the sizes of a view by axis are not those of a map with ``outputs`` channels."""
        pair = (sizes[HEIGHT], sizes[WIDTH])
        if [*sizes.values()].count(-1) > 1:
            return lost(node, "leaves two sizes open")
        rows = sizes[OUTPUTS]
        if rows not in (-1, outputs) and not self._is_parameter_size(rows, outputs):
            return lost(node, f"has {rows} channels where the weight has {outputs} rows")
        batch = sizes.get(BATCH, -1)
        if isinstance(batch, int) and batch not in (-1, self.known.batch):
            return Problem(
                MissCode.BAKED_BATCH, f"{node.name!r} fixes the batch at {batch}", "write x.size(0) or -1"
            )
        owner = size_of(batch)
        if isinstance(batch, (Node, str)) and (owner is None or owner[1] != 0 or not self._is_ours(owner[0])):
            return lost(node, f"has a batch that cannot be followed ({batch})")
        return self.of_pair(node, pair)

    def _is_parameter_size(self, size: Any, expected: int) -> bool:
        owner = size_of(size)
        read = None if owner is None else constant_of(owner[0], self.vocabulary)
        return read is not None and owner is not None and int(read.view.shape[owner[1]]) == expected

    def _is_ours(self, node: Node) -> bool:
        """Whether a value has the batch of the columns: it is the map before them, or made of them."""
        if same_size(node, self.op.source):
            return True
        seen = {self.unfold}
        while node not in seen and node > self.unfold:
            seen.add(node)
            op = self.vocabulary.classify(node)
            read = [source for source in node.all_input_nodes if constant_of(source, self.vocabulary) is None]
            read = [source for source in read if not is_shape_value(source)]
            if len(read) != 1 or not isinstance(op, (Permute, Affine, Product, Elementwise)):
                return False
            node = read[0]
        return node is self.unfold

    def of_pair(self, node: Node, pair: tuple[Any, ...]) -> Problem | None:
        """Why two sizes are not the numbers of patches along both axes, or None where they are."""
        given = [size for size in pair if not (isinstance(size, int) and size == -1)]
        if not given or len(pair) != 2:
            return lost(node, "leaves height and width open")
        problems = (self._extent_problem(axis, size, node) for axis, size in enumerate(pair))
        return next(filter(None, problems), None)

    def _extent_problem(self, axis: int, size: Any, node: Node) -> Problem | None:
        word, patches = ("height", "width")[axis], Patches.unfolded(self.op)
        known = None if self.known.extents is None else patches.count(self.known.extents)[axis]
        if isinstance(size, int):
            if size == -1 or size == known:
                return None
            if known is not None:
                return lost(node, f"has the {word} {size} where there are {known} patches")
            return Problem(
                MissCode.UNKNOWN_EXTENT,
                f"nothing says whether {node.name!r} has the right {word}, {size}",
                "pass example_inputs (--input-shape)",
            )
        quotient = quotient_of(size)
        if quotient is not None and quotient.axis in (axis - 2, axis + 1 + self.is_batched):
            wanted = (patches.shift(axis), patches.stride[axis])
            if same_size(quotient.owner, self.op.source) and (quotient.shift, quotient.step) == wanted:
                return None
        return lost(node, f"has a {word} that is not followed to the patches ({size})")


def lost(node: Node, what: str) -> Problem:
    """Columns that cannot be followed to a map."""
    return Problem(
        MissCode.UNKNOWN_LAYOUT,
        f"{node.name!r} {what}",
        "multiply with weight.view(O, -1) and view as [N, O, H, W] with the sizes of what was unfolded",
    )
