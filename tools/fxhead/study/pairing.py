"""Both heads with one seed, one order and the same weights, in lockstep: what do they differ by?"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from fxexport.numerics.bounds import affine_interval, exactly, precision_of
from fxhead.study.data import Images
from fxhead.study.network import ConvHead, LinearHead, Network, build
from fxhead.study.records import PairRecord
from fxhead.study.settings import Dtype, StudyHead, StudySubject, Training
from fxhead.study.training import Trainer, batches, tensors

_OFF = 1.01
"""Factor on one weight of the control: a mistake as small as a careless copy could make."""
_TYPES = {Dtype.FLOAT32: torch.float32, Dtype.FLOAT64: torch.float64}


def train_pair(
    images: Images, training: Training, subject: StudySubject, dtype: Dtype, seed: int
) -> PairRecord:
    """What the convolution's run differs by from the Linear's, step by step.

    Raises:
        DivergedError: the loss is no longer a number.
    """
    fit_images, fit_labels, *_ = tensors(images)
    fit_images = fit_images.to(_TYPES[dtype])
    linear, conv = _build_pair(images, subject, dtype, seed)
    order = [*itertools.chain.from_iterable(batches(len(fit_labels), training, seed))]
    of_bound = _logits_of_bound(linear, conv, fit_images[order[0]], dtype)
    trainers = [Trainer(network, training, len(order)) for network in (linear, conv)]
    loss, loss_difference, weight_difference = [], [], []
    for batch in order:
        first, second = (trainer.step(fit_images[batch], fit_labels[batch]) for trainer in trainers)
        loss.append(first)
        loss_difference.append(abs(first - second))
        weight_difference.append(_weight_difference(linear, conv))
    return PairRecord(
        subject=subject,
        dtype=dtype,
        seed=seed,
        epsilon=torch.finfo(_TYPES[dtype]).eps,
        logits_of_bound=of_bound,
        largest_weight=max(p.detach().abs().max().item() for p in linear.parameters()),
        loss=tuple(loss),
        loss_difference=tuple(loss_difference),
        weight_difference=tuple(weight_difference),
    )


def _build_pair(images: Images, subject: StudySubject, dtype: Dtype, seed: int) -> tuple[Network, Network]:
    """Two networks with equal weights, drawn in float32 whatever they compute in."""
    linear, conv = (
        build(head, images.channels, len(images.classes), seed) for head in (StudyHead.LINEAR, StudyHead.CONV)
    )
    conv.backbone.load_state_dict(linear.backbone.state_dict())
    with torch.no_grad():
        conv.head.fc.weight.copy_(linear.head.fc.weight.view_as(conv.head.fc.weight))
        _bias(conv.head).copy_(_bias(linear.head))
        if subject is StudySubject.OFF:
            conv.head.fc.weight[0, 0].mul_(_OFF)
    return linear.to(_TYPES[dtype]), conv.to(_TYPES[dtype])


def _logits_of_bound(linear: Network, conv: Network, images: Tensor, dtype: Dtype) -> float:
    """The largest difference of the first logits as a share of what rounding alone can make it.

    Each head is within the dot product bound of the exact value, so the two are within twice the bound.

    Source:
        ``fxexport.numerics.bounds``; Higham, *Accuracy and Stability of Numerical Algorithms*, §3.1.
    """
    precision = precision_of(dtype)
    assert precision is not None
    with torch.no_grad():
        maps = linear.eval().backbone(images)  # in train mode it would move the batch norms of one of them
        pooled = linear.head.pool(maps).flatten(1)
        difference = (linear.head(maps) - conv.head(maps)).abs().double().numpy()
        weight, bias = linear.head.fc.weight.detach().numpy(), _bias(linear.head).detach().numpy()
    error = affine_interval(exactly(pooled.numpy()), weight, bias, precision).error
    return float((difference / (2 * error)).max())


def _weight_difference(linear: Network, conv: Network) -> float:
    """The largest difference between any two weights that started equal."""
    pairs = zip(linear.parameters(), conv.parameters(), strict=True)
    with torch.no_grad():
        return max((first.view_as(second) - second).abs().max().item() for first, second in pairs)


def _bias(head: LinearHead | ConvHead) -> Tensor:
    bias = head.fc.bias
    assert bias is not None  # both layers have one by default
    return bias
