"""Damage to weights: functions of named arrays, for modules and ONNX files alike."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import nn

from fxexport import LayerName
from fxpasses import find_sites

Array = NDArray[np.float32]


class NotHere(Exception):
    """The model has nothing that could be damaged in this way."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A model's arrays, to be changed in place.

    Attributes:
        arrays: every float array by its state-dict name.
        sites: names of the head's sites, the last one last.
    """

    arrays: Mapping[str, Array]
    sites: tuple[str, ...]

    @property
    def weight(self) -> Array:
        return self.arrays[f"{self.sites[-1]}.weight"]

    @property
    def matrix(self) -> Array:
        return self.weight.reshape(len(self.weight), -1)

    @property
    def bias(self) -> Array:
        return self.arrays[f"{self.sites[-1]}.bias"]

    @property
    def backbone(self) -> Array:
        """The first weight of the first convolution."""
        inside = tuple(f"{site}." for site in self.sites)
        for name, array in self.arrays.items():
            if array.ndim >= 2 and not name.startswith(inside):
                return array.reshape(-1)
        raise NotHere

    def ending(self, suffix: str) -> Array:
        """The first array of that name."""
        for name, array in self.arrays.items():
            if name.endswith(suffix):
                return array
        raise NotHere


def _random(s: Stored) -> None:
    s.weight[...] = np.random.default_rng(5).standard_normal(s.weight.shape) * s.weight.std()


def _reversed(s: Stored) -> None:
    s.matrix[...] = s.matrix[:, ::-1].copy()


def _swapped_channels(s: Stored) -> None:
    s.matrix[:, [0, 1]] = s.matrix[:, [1, 0]]


def _zero_bias(s: Stored) -> None:
    s.bias[...] = 0


def _copied_row(s: Stored) -> None:
    s.matrix[0] = s.matrix[1]


def _one_weight(s: Stored) -> None:
    s.matrix.reshape(-1)[5] *= 1.01


def _rounded(dtype: torch.dtype) -> Callable[[Stored], None]:
    def damage(s: Stored) -> None:
        s.weight[...] = torch.from_numpy(s.weight.copy()).to(dtype).float().numpy()

    return damage


def _one_ulp(array: Array, index: int) -> None:
    flat = array.reshape(-1)
    flat[index] = np.nextafter(flat[index], np.float32(np.inf))


def _one_ulp_weight(s: Stored) -> None:
    _one_ulp(s.weight, 7)


def _one_ulp_bias(s: Stored) -> None:
    if not s.bias[3]:
        raise NotHere
    _one_ulp(s.bias, 3)


def _one_sign(s: Stored) -> None:
    s.matrix.reshape(-1)[11] *= -1


def _negated(s: Stored) -> None:
    s.weight[...] *= -1


def _all_by_an_ulp(s: Stored) -> None:
    s.weight[...] = np.nextafter(s.weight, np.float32(np.inf))


def _nan(s: Stored) -> None:
    s.matrix[1, 2] = np.nan


def _infinite(s: Stored) -> None:
    s.matrix[1, 2] = np.inf


def _class_order(s: Stored) -> None:
    s.weight[...] = np.roll(s.weight, 1, axis=0)
    s.bias[...] = np.roll(s.bias, 1)


def _bias_order(s: Stored) -> None:
    s.bias[...] = np.roll(s.bias, 1)


def _bias_doubled(s: Stored) -> None:
    s.bias[...] *= 2


def _half_the_channels(s: Stored) -> None:
    s.matrix[:, s.matrix.shape[1] // 2 :] = 0


def _one_row_lost(s: Stored) -> None:
    s.matrix[2] = 0


def _transposed(s: Stored) -> None:
    if s.matrix.shape[0] != s.matrix.shape[1]:
        raise NotHere
    s.matrix[...] = s.matrix.T.copy()


def _channels_last(s: Stored) -> None:
    weight = s.arrays[f"{s.sites[0]}.weight"]
    cells = int(np.prod(weight.shape[2:]))
    if weight.ndim != 4 or cells == 1:
        raise NotHere
    out, channels = weight.shape[:2]
    weight[...] = weight.reshape(out, cells, channels).swapaxes(1, 2).reshape(weight.shape).copy()


def _swapped_sites(s: Stored) -> None:
    first = s.arrays[f"{s.sites[0]}.weight"]
    if len(s.sites) < 2 or first.shape != s.weight.shape:
        raise NotHere
    first[...], s.weight[...] = s.weight.copy(), first.copy()


def _first_site(s: Stored) -> None:
    if len(s.sites) < 2:
        raise NotHere
    _one_ulp(s.arrays[f"{s.sites[0]}.weight"], 9)


def _backbone_ulp(s: Stored) -> None:
    _one_ulp(s.backbone, 4)


def _backbone_value(s: Stored) -> None:
    s.backbone[4] *= 1.01


def _backbone_zero(s: Stored) -> None:
    s.backbone[4] = 0


def _backbone_nan(s: Stored) -> None:
    s.backbone[4] = np.nan


def _backbone_infinite(s: Stored) -> None:
    s.backbone[4] = np.inf


def _backbone_bfloat16(s: Stored) -> None:
    s.backbone[...] = torch.from_numpy(s.backbone.copy()).bfloat16().float().numpy()


def _norm_mean(s: Stored) -> None:
    s.ending("running_mean")[1] += 0.01


def _norm_variance(s: Stored) -> None:
    s.ending("running_var")[1] *= 1.01


def _norms_swapped(s: Stored) -> None:
    mean, bias = s.ending("running_mean"), s.ending("running_var")
    mean[...], bias[...] = bias.copy(), np.abs(mean) + 0.1


def _side_branch(s: Stored) -> None:
    s.ending("fc1.weight")[...] *= np.float32(1 + 2.0**-20)


def _moved_factor(s: Stored) -> None:
    """The same function in real numbers, with other weights."""
    factor = np.float32(1 + 2.0**-20)
    s.weight[...] *= factor
    s.backbone[...] /= factor


_HEAD = frozenset({LayerName.WEIGHTS})
_UPSTREAM = frozenset({LayerName.BACKBONE})

WEIGHT_DAMAGES: dict[str, tuple[Callable[[Stored], None], frozenset[LayerName]]] = {
    "random": (_random, _HEAD),
    "reversed": (_reversed, _HEAD),
    "swapped_channels": (_swapped_channels, _HEAD),
    "zero_bias": (_zero_bias, _HEAD),
    "copied_row": (_copied_row, _HEAD),
    "one_weight": (_one_weight, _HEAD),
    "bfloat16": (_rounded(torch.bfloat16), _HEAD),
    "float16": (_rounded(torch.float16), _HEAD),
    "one_ulp_weight": (_one_ulp_weight, _HEAD),
    "one_ulp_bias": (_one_ulp_bias, _HEAD),
    "one_sign": (_one_sign, _HEAD),
    "negated": (_negated, _HEAD),
    "all_by_an_ulp": (_all_by_an_ulp, _HEAD),
    "nan": (_nan, _HEAD),
    "infinite": (_infinite, _HEAD),
    "class_order": (_class_order, _HEAD),
    "bias_order": (_bias_order, _HEAD),
    "bias_doubled": (_bias_doubled, _HEAD),
    "half_the_channels": (_half_the_channels, _HEAD),
    "one_row_lost": (_one_row_lost, _HEAD),
    "transposed": (_transposed, _HEAD),
    "channels_last": (_channels_last, _HEAD),
    "swapped_sites": (_swapped_sites, _HEAD),
    "first_site": (_first_site, _HEAD),
    "side_branch": (_side_branch, _UPSTREAM),
    "moved_factor": (_moved_factor, _HEAD),
    "backbone_ulp": (_backbone_ulp, _UPSTREAM),
    "backbone_value": (_backbone_value, _UPSTREAM),
    "backbone_zero": (_backbone_zero, _UPSTREAM),
    "backbone_nan": (_backbone_nan, _UPSTREAM),
    "backbone_infinite": (_backbone_infinite, _UPSTREAM),
    "backbone_bfloat16": (_backbone_bfloat16, _UPSTREAM),
    "norm_mean": (_norm_mean, _UPSTREAM),
    "norm_variance": (_norm_variance, _UPSTREAM),
    "norms_swapped": (_norms_swapped, _UPSTREAM),
}


def damage_module(model: nn.Module, kind: str) -> nn.Module:
    """A copy of ``model`` with its arrays damaged.

    Raises:
        NotHere: there is nothing to damage in this way.
    """
    clone = copy.deepcopy(model)
    arrays = {
        name: tensor.detach().numpy()
        for name, tensor in clone.state_dict(keep_vars=True).items()
        if tensor.is_floating_point()
    }
    WEIGHT_DAMAGES[kind][0](Stored(arrays=arrays, sites=site_names(clone)))
    return clone


def damage_graph(proto: onnx.ModelProto, sites: tuple[str, ...], kind: str) -> onnx.ModelProto:
    """A copy of ``proto`` with its initialisers damaged; their names are the module's.

    Raises:
        NotHere: there is nothing to damage in this way.
    """
    clone = onnx.ModelProto()
    clone.CopyFrom(proto)
    floats = [t for t in clone.graph.initializer if t.data_type == onnx.TensorProto.FLOAT]
    arrays = {tensor.name: numpy_helper.to_array(tensor).copy() for tensor in floats}
    WEIGHT_DAMAGES[kind][0](Stored(arrays=arrays, sites=sites))
    for tensor in floats:
        tensor.CopyFrom(numpy_helper.from_array(arrays[tensor.name], tensor.name))
    return clone


def site_names(model: nn.Module) -> tuple[str, ...]:
    """Module names of the head's sites."""
    return tuple(site.name for site in find_sites(model).sites)
