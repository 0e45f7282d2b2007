"""Batches: every example once an epoch, and a resumed run that is the uninterrupted one."""

from __future__ import annotations

import json
from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minidetect.data.loader import BatchSampler, batches, rng_state, set_rng_state


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 30), st.integers(1, 70), st.integers(0, 1000))
def test_every_example_once_an_epoch(num, batch_size, seed):
    epochs = 3
    count = -(-epochs * num // batch_size)
    stream = np.concatenate(list(islice(batches(num, batch_size, np.random.default_rng(seed)), count)))
    assert stream.dtype == np.int64 and len(stream) == count * batch_size
    for epoch in stream[: epochs * num].reshape(epochs, num):
        assert sorted(epoch) == list(range(num))


def test_epochs_are_shuffled_differently(rng):
    first, second = islice(batches(50, 50, rng), 2)
    assert (first != np.arange(50)).any() and (first != second).any()


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 20), st.integers(1, 15), st.integers(0, 30))
def test_resume_equals_uninterrupted(num, batch_size, steps):
    sampler = BatchSampler(num, batch_size, np.random.default_rng(7))
    for _ in range(steps):
        next(sampler)
    saved = json.loads(json.dumps(sampler.state_dict()))
    resumed = BatchSampler(num, batch_size, np.random.default_rng(99))
    resumed.load_state_dict(saved)
    assert resumed.epoch == sampler.epoch
    for _ in range(10):
        np.testing.assert_array_equal(next(resumed), next(sampler))


def test_resume_holds_when_others_use_the_generator_too():
    def steps(sampler, count):
        return [(next(sampler).tolist(), sampler.rng.random()) for _ in range(count)]

    sampler = BatchSampler(10, 4, np.random.default_rng(1))
    steps(sampler, 6)
    saved = sampler.state_dict()
    resumed = BatchSampler(10, 4, np.random.default_rng(2))
    resumed.load_state_dict(saved)
    assert steps(resumed, 12) == steps(sampler, 12)


def test_a_state_without_the_shuffle_would_not_resume():
    """What is wrong with saving only the generator and the position: the order of this epoch is lost."""
    sampler = BatchSampler(50, 4, np.random.default_rng(1))
    next(sampler)
    wrong = BatchSampler(50, 4, np.random.default_rng(2))
    state = sampler.state_dict()
    wrong.load_state_dict({**state, "before_shuffle": state["rng"]})
    assert (next(wrong) != next(sampler)).any()


def test_the_state_is_small_and_a_saved_state_does_not_move_on():
    sampler = BatchSampler(100_000, 8, np.random.default_rng(0))
    state = sampler.state_dict()
    text = json.dumps(state)
    assert len(text) < 1000
    next(sampler)
    assert json.dumps(state) == text


@pytest.mark.parametrize("kind", [np.random.PCG64, np.random.MT19937, np.random.Philox, np.random.SFC64])
def test_rng_state_of_every_kind_of_generator(kind):
    rng = np.random.Generator(kind(5))
    rng.integers(0, 9, 3, dtype=np.uint8)  # leaves half a word behind, which the state must hold
    state = json.loads(json.dumps(rng_state(rng)))
    other = np.random.Generator(kind(6))
    set_rng_state(other, state)
    np.testing.assert_array_equal(other.integers(0, 99, 20, np.uint8), rng.integers(0, 99, 20, np.uint8))


def test_wrong_use_is_said(rng):
    with pytest.raises(ValueError, match="at least 1"):
        BatchSampler(0, 4, rng)
    with pytest.raises(ValueError, match="at least 1"):
        BatchSampler(4, 0, rng)
    state = BatchSampler(5, 2, np.random.default_rng(0)).state_dict()
    with pytest.raises(ValueError, match="5 examples"):
        BatchSampler(6, 2, rng).load_state_dict(state)
    with pytest.raises(ValueError, match="PCG64"):
        BatchSampler(5, 2, np.random.Generator(np.random.MT19937(0))).load_state_dict(state)
