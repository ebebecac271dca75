"""Single runs and pairs in lockstep."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from fxhead.files.strict_json import Field
from fxhead.files.typed_json import read_as
from fxhead.study.data import Images
from fxhead.study.network import SCALE, build
from fxhead.study.pairing import train_pair
from fxhead.study.records import PairRecord, RunRecord
from fxhead.study.settings import Dtype, Optimizer, StudyHead, StudySubject, Training
from fxhead.study.training import DivergedError, batches, train_run
from fxpasses.report import plain


def read_back(record: RunRecord | PairRecord) -> object:
    """The record as the study's folder gives it back."""
    stored = json.loads(json.dumps(plain(record)))
    return read_as(type(record), Field(stored, "", Path("a.json"), "remove it"), {})


def test_one_seed_draws_the_same_network_under_either_head() -> None:
    linear, conv, scaled = (build(head, 1, 10, seed=4).state_dict() for head in StudyHead)
    other = build(StudyHead.LINEAR, 1, 10, seed=5).state_dict()
    assert [*linear] == [*conv] == [*scaled]
    for name, value in linear.items():
        assert torch.equal(value, conv[name].view_as(value))
        factor = SCALE if name.startswith("head.") else 1.0
        assert torch.equal(value * factor, scaled[name])
    assert not torch.equal(linear["head.fc.weight"], other["head.fc.weight"])


def test_drawing_a_network_leaves_torchs_generator_alone() -> None:
    before = torch.random.get_rng_state()
    build(StudyHead.CONV, 1, 10, seed=4)
    assert torch.equal(before, torch.random.get_rng_state())


def test_an_epoch_shows_every_image_once_in_an_order_of_its_seed(short: Training) -> None:
    twice = dataclasses.replace(short, epochs=2)
    first, second = batches(600, twice, seed=1)
    assert [len(batch) for batch in first] == [256, 256, 88]
    assert sorted(torch.cat(first).tolist()) == list(range(600))
    assert torch.cat(first).tolist() != torch.cat(second).tolist()
    assert torch.equal(torch.cat(next(batches(600, twice, seed=1))), torch.cat(first))
    assert not torch.equal(torch.cat(next(batches(600, twice, seed=2))), torch.cat(first))


@pytest.mark.parametrize("optimizer", Optimizer)
def test_a_run_learns_and_repeats(digits: Images, short: Training, optimizer: Optimizer) -> None:
    rate = 0.05 if optimizer is Optimizer.SGD else 0.01
    training = dataclasses.replace(short, optimizer=optimizer, learning_rate=rate, epochs=3, batch_size=64)
    first, again = (train_run(digits, training, StudyHead.LINEAR, 0) for _ in range(2))
    assert first == again
    assert first.correct[-1] > 0.8 * first.held_out
    assert first.fit_loss[2] < first.fit_loss[0]
    assert len(first.correct) == len(first.fit_loss) == len(first.held_out_loss) == 3
    assert read_back(first) == first
    assert train_run(digits, training, StudyHead.LINEAR, 2).fit_loss != first.fit_loss


def test_a_run_that_diverges_has_no_record(digits: Images, short: Training) -> None:
    wild = dataclasses.replace(short, learning_rate=1e9)
    with pytest.raises(DivergedError, match="loss became"):
        train_run(digits, wild, StudyHead.LINEAR, 0)


@pytest.mark.parametrize("dtype", Dtype)
def test_equal_weights_train_alike_and_a_wrong_one_does_not(
    digits: Images, short: Training, dtype: Dtype
) -> None:
    same, off = (train_pair(digits, short, subject, dtype, 0) for subject in StudySubject)
    epsilon = torch.finfo(getattr(torch, dtype)).eps
    assert same.epsilon == off.epsilon == epsilon
    assert same.loss == off.loss
    assert same.logits_of_bound <= 1 < off.logits_of_bound
    assert max(same.loss_difference) < 16 * epsilon * max(same.loss)
    assert min(off.loss_difference) > 1e-6
    # 1 % of a weight that is drawn from ±1/8
    assert 0 < off.weight_difference[0] < 0.01
    assert max(same.weight_difference) < 64 * epsilon * same.largest_weight
    assert len(same.loss) == len(same.loss_difference) == len(same.weight_difference) == 4
    assert read_back(same) == same


def test_a_pair_s_linear_is_the_run_of_that_seed(digits: Images, short: Training) -> None:
    pair = train_pair(digits, short, StudySubject.SAME, Dtype.FLOAT32, 6)
    run = train_run(digits, short, StudyHead.LINEAR, 6)
    sizes = [256, 256, 256, 898 - 3 * 256]
    mean = sum(loss * size for loss, size in zip(pair.loss, sizes, strict=True)) / 898
    assert run.fit_loss[0] == pytest.approx(mean, rel=1e-12)
