"""Names that an honest checkpoint has in its pickle: data types, what rebuilds tensors, classes of objects.

Nothing is ever looked up or called by these names here. They are what may be in a file without a word; for
any other name the user has to say that it belongs there, as whoever loads the result may run it. A criterion
or a transform is an object that was made of its class alone, by no call and of no arguments: not one of
Python's own, wherever else it may be found by name, and of torch's those that models are made of.
"""

from __future__ import annotations

import _compat_pickle
import re
import sys
from collections.abc import Collection
from typing import Any

from fxexport.untrusted.pickle_records import Global
from fxexport.untrusted.plain_objects import MADE
from fxhead.loading.unpickle import uses

_EXACT = frozenset(
    {
        *MADE,
        "datetime.date",
        "datetime.datetime",
        "datetime.timedelta",
        "datetime.timezone",
        "torch.Tensor",
        "torch.dtype",
        "torch.nn.parameter.Buffer",
        "torch.nn.parameter.Parameter",
        "torch.storage.UntypedStorage",
        "torch.torch_version.TorchVersion",
        "torch._tensor._rebuild_from_type_v2",
        "torchvision.transforms.functional.InterpolationMode",
        *(f"collections.{name}" for name in ("Counter", "defaultdict", "deque")),
        *(
            f"builtins.{name}"
            for name in "bool bytearray bytes complex dict float int list str tuple".split()
        ),
        *(
            f"pathlib.{name}"
            for name in "Path PosixPath PurePath PurePosixPath PureWindowsPath WindowsPath".split()
        ),
        *(
            f"torch._utils._rebuild_{name}"
            for name in "parameter_with_state qtensor sparse_tensor meta_tensor_no_storage "
            "nested_tensor".split()
        ),
        *(f"numpy.{name}" for name in ("dtype", "ndarray")),
        *(
            f"numpy.{core}.multiarray.{name}"
            for core in ("core", "_core")
            for name in ("scalar", "_reconstruct")
        ),
        *(f"{package}.utilities.data.AttributeDict" for package in ("lightning.fabric", "lightning_fabric")),
        *(
            f"{package}.utilities.parsing.AttributeDict"
            for package in ("lightning.pytorch", "pytorch_lightning")
        ),
    }
)
_PART_OF_A_CLASS = re.compile(r"_*[A-Z]\w*(\._*[A-Z]\w*)*")
_PATTERNS = tuple(
    re.compile(pattern, re.ASCII)
    for pattern in (
        r"torch\.(cuda\.|storage\.)?[A-Za-z0-9]+Storage",
        r"torch\.(b?float|complex|u?int|q?u?int|float8_|quint)\w*",
        r"torch\.(bool|half|double|long|short|strided|sparse_coo|sparse_csr|per_(tensor|channel)_\w+)",
        r"numpy\.dtypes\.[A-Za-z0-9]+DType",
    )
)


def unknown_names(names: Collection[str], allowed: Collection[str], root: Any) -> list[str]:
    """Those of the names that are no data types, classes of objects, or allowed by the user, sorted.

    They are given as Python 3 knows them: a pickle of protocol 2 has Python 2's names.
    """
    objects = _classes_of_objects(root)
    return sorted(
        name
        for name in map(_renamed, {*names} - objects)
        if name not in _EXACT
        and name not in allowed
        and not any(pattern.fullmatch(name) for pattern in _PATTERNS)
    )


def _classes_of_objects(root: Any) -> set[str]:
    """Classes that are named for nothing but to make instances."""
    made: set[str] = set()
    other: set[str] = set()
    for function, is_made in uses(root):
        (made if is_made and _is_class_of_models(function) else other).add(str(function))
    return made - other


def _is_class_of_models(name: Global) -> bool:
    """Whether it is called like a class: none of Python's own, or of torch's that hold code or files."""
    package = _renamed(str(name)).partition(".")[0]
    # ``torch.utils.cpp_extension`` has ``subprocess.Popen``, as each module has what it imports
    is_own = _PART_OF_A_CLASS.fullmatch(name.name) is not None and package not in sys.stdlib_module_names
    return is_own and (package != "torch" or name.module.startswith(("torch.nn.modules.", "torch.optim.")))


def _renamed(name: str) -> str:
    module, _, last = name.rpartition(".")
    pair = _compat_pickle.NAME_MAPPING.get((module, last))
    if pair is not None:
        return ".".join(pair)
    return f"{_compat_pickle.IMPORT_MAPPING.get(module, module)}.{last}"
