"""One run: a network drawn from a seed, trained, and measured on the held-out images."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fxhead.study.data import Images
from fxhead.study.network import build
from fxhead.study.records import RunRecord
from fxhead.study.settings import MOMENTUM, Optimizer, StudyHead, Training

_CHUNK = 1024
"""Held-out images in one forward pass."""


class DivergedError(Exception):
    """The loss is no longer a number."""


class Trainer:
    """A network with its optimiser, one step at a time."""

    def __init__(self, network: nn.Module, training: Training, steps: int) -> None:
        self.network = network.train()
        parameters, rate = [*network.parameters()], training.learning_rate
        self._optimizer: torch.optim.Optimizer = (
            torch.optim.Adam(parameters, lr=rate)
            if training.optimizer is Optimizer.ADAM
            else torch.optim.SGD(parameters, lr=rate, momentum=MOMENTUM)
        )
        self._schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self._optimizer, steps)

    def step(self, images: Tensor, labels: Tensor) -> float:
        """The loss before the step that is taken.

        Raises:
            DivergedError: it is infinite or not a number.
        """
        self._optimizer.zero_grad()
        loss = F.cross_entropy(self.network(images), labels)
        value = loss.item()
        if not math.isfinite(value):
            raise DivergedError(f"the loss became {value}")
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        self._schedule.step()
        return value


def batches(count: int, training: Training, seed: int) -> Iterator[list[Tensor]]:
    """The batches of each epoch as indices; the order depends on the seed alone, not on the network."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(training.epochs):
        yield [*torch.split(torch.randperm(count, generator=generator), training.batch_size)]


def step_count(count: int, training: Training) -> int:
    """Steps of a whole run over ``count`` images."""
    return training.epochs * math.ceil(count / training.batch_size)


def tensors(images: Images) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The arrays as tensors in torch's own memory, whose alignment does not vary from run to run."""
    arrays = (images.fit_images, images.fit_labels, images.held_out_images, images.held_out_labels)
    first, second, third, fourth = (torch.from_numpy(array).clone() for array in arrays)
    return first, second, third, fourth


def train_run(images: Images, training: Training, head: StudyHead, seed: int) -> RunRecord:
    """The record of one head under one seed.

    Raises:
        DivergedError: the loss is no longer a number.
    """
    fit_images, fit_labels, held_out_images, held_out_labels = tensors(images)
    network = build(head, images.channels, len(images.classes), seed)
    trainer = Trainer(network, training, step_count(len(fit_labels), training))
    fit_loss, held_out_loss, correct = [], [], []
    for epoch in batches(len(fit_labels), training, seed):
        total = 0.0
        for batch in epoch:
            total += trainer.step(fit_images[batch], fit_labels[batch]) * len(batch)
        loss, right = _measure(network, held_out_images, held_out_labels)
        fit_loss.append(total / len(fit_labels))
        held_out_loss.append(loss)
        correct.append(right)
    return RunRecord(
        head=head,
        seed=seed,
        held_out=len(held_out_labels),
        correct=tuple(correct),
        fit_loss=tuple(fit_loss),
        held_out_loss=tuple(held_out_loss),
    )


def _measure(network: nn.Module, images: Tensor, labels: Tensor) -> tuple[float, int]:
    """Mean loss, and how many labels are right, in eval mode."""
    network.eval()
    total, right = 0.0, 0
    with torch.no_grad():
        for part, truth in zip(torch.split(images, _CHUNK), torch.split(labels, _CHUNK), strict=True):
            logits = network(part)
            total += F.cross_entropy(logits, truth, reduction="sum").item()
            right += int((logits.argmax(1) == truth).sum())
    network.train()
    if not math.isfinite(total):
        raise DivergedError(f"the held-out loss became {total}")
    return total / len(labels), right
