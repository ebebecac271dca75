"""Names that an honest checkpoint has in its pickle: data types, and what rebuilds tensors.

Nothing is ever looked up or called by these names here. They are what may be in a file without a word; for
any other name the user has to say that it belongs there, as whoever loads the result may run it.
"""

from __future__ import annotations

import _compat_pickle
import re
from collections.abc import Collection

_EXACT = frozenset(
    {
        "argparse.Namespace",
        "_codecs.encode",
        "datetime.date",
        "datetime.datetime",
        "datetime.timedelta",
        "datetime.timezone",
        "torch.Size",
        "torch.Tensor",
        "torch.device",
        "torch.dtype",
        "torch.nn.parameter.Buffer",
        "torch.nn.parameter.Parameter",
        "torch.serialization._get_layout",
        "torch.storage.UntypedStorage",
        "torch.torch_version.TorchVersion",
        "torch._tensor._rebuild_from_type_v2",
        *(f"collections.{name}" for name in ("OrderedDict", "Counter", "defaultdict", "deque")),
        *(
            f"builtins.{name}"
            for name in "bool bytearray bytes complex dict float frozenset int list set str tuple".split()
        ),
        *(
            f"pathlib.{name}"
            for name in "Path PosixPath PurePath PurePosixPath PureWindowsPath WindowsPath".split()
        ),
        *(
            f"torch._utils._rebuild_{name}"
            for name in "tensor tensor_v2 tensor_v3 parameter parameter_with_state qtensor sparse_tensor "
            "meta_tensor_no_storage nested_tensor".split()
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
_PATTERNS = tuple(
    re.compile(pattern, re.ASCII)
    for pattern in (
        r"torch\.(cuda\.|storage\.)?[A-Za-z0-9]+Storage",
        r"torch\.(b?float|complex|u?int|q?u?int|float8_|quint)\w*",
        r"torch\.(bool|half|double|long|short|strided|sparse_coo|sparse_csr|per_(tensor|channel)_\w+)",
        r"numpy\.dtypes\.[A-Za-z0-9]+DType",
    )
)


def unknown_names(names: Collection[str], allowed: Collection[str]) -> list[str]:
    """Those of the names that are neither data types nor allowed by the user, sorted.

    They are given as Python 3 knows them: a pickle of protocol 2 has Python 2's names.
    """
    return sorted(
        name
        for name in map(_renamed, names)
        if name not in _EXACT
        and name not in allowed
        and not any(pattern.fullmatch(name) for pattern in _PATTERNS)
    )


def _renamed(name: str) -> str:
    module, _, last = name.rpartition(".")
    pair = _compat_pickle.NAME_MAPPING.get((module, last))
    if pair is not None:
        return ".".join(pair)
    return f"{_compat_pickle.IMPORT_MAPPING.get(module, module)}.{last}"
