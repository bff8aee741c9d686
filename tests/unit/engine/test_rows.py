"""Batches with the bits that each row has alone: layers kept apart, sizes tested, streams together."""

from collections import Counter
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from aqaa.engine.rows import RowByRow, equal_sizes, in_all, in_sizes, keep_rows_apart
from aqaa.engine.tokenizer import Tokenizer
from aqaa.engine.vocoder import Vocoder


class Convolved(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Conv1d(24, 24, 3, stride=2)
        self.separable = nn.Conv1d(24, 24, 3, groups=24)
        self.up = nn.ConvTranspose1d(24, 24, 4, 2, 1)
        self.head = nn.Sequential(nn.Linear(24, 24), nn.SiLU(), nn.Linear(24, 5))

    def forward(self, x):
        return self.head(self.up(self.separable(self.dense(x))).mean(-1))


def test_layers_that_choose_by_the_batch_are_kept_apart_once_and_say_the_same():
    network, x = Convolved().eval(), torch.randn(1, 24, 40)
    before = network(x)
    keep_rows_apart(network)
    keep_rows_apart(network)
    assert isinstance(network.dense, RowByRow)
    assert isinstance(network.dense.layer, nn.Conv1d)
    assert isinstance(network.separable, nn.Conv1d)
    assert torch.equal(network(x), before)
    batch = torch.randn(4, 24, 40)
    with torch.inference_mode():
        rows = torch.cat([network(row[None].clone()) for row in batch])
        torch.testing.assert_close(network(batch), rows)


def test_only_sizes_that_give_equal_bits_are_found():
    x = torch.arange(8.0)[:, None]
    assert equal_sizes(8, lambda rows: [x[rows] * 3]) == (1, 2, 4, 8)
    assert equal_sizes(5, lambda rows: [x[rows] + (len(x[rows]) > 2)]) == (1, 2)
    assert equal_sizes(1, lambda rows: [x[rows]]) == (1,)
    assert in_all([(1, 2, 4), (1, 4)]) == (1, 4)


@given(count=st.integers(0, 40), more=st.sets(st.sampled_from([2, 4, 8])))
def test_batches_hold_everything_in_order_in_allowed_sizes(count, more):
    sizes = (1, *sorted(more))
    batches = [list(batch) for batch in in_sizes(range(count), sizes)]
    assert [item for batch in batches for item in batch] == list(range(count))
    assert {len(batch) for batch in batches} <= set(sizes)


@pytest.mark.parametrize("level", ["normalised", "kept"])
def test_signals_computed_together_have_the_groups_that_each_has_alone(codec_bundle, level):
    tokenizer = Tokenizer.load(codec_bundle())
    rng, passes = np.random.default_rng(3), Counter()
    signals = [rng.normal(size=size).astype(np.float32) / 4 for size in (17000, 9000, 23000, 0)]
    streams = [tokenizer.stream(level) for _ in signals]
    found = [[np.empty((0, 5), np.int64)] for _ in signals]
    for stream, signal in zip(streams, signals, strict=True):
        stream.feed(signal)
        stream.end()

    def watch(network, rows):
        passes[network, rows] += 1
        return nullcontext()

    sizes = tokenizer.equal_sizes(2)
    while due := [n for n, stream in enumerate(streams) if stream.due]:
        made = tokenizer.advance([streams[n] for n in due], sizes=sizes, watch=watch)
        for n, groups in zip(due, made, strict=True):
            found[n].append(groups)
    assert all(stream.finished for stream in streams)
    for signal, groups in zip(signals, found, strict=True):
        assert np.array_equal(np.concatenate(groups), tokenizer.tokenize(signal, level))
    assert {network for network, _ in passes} == {"linguistic", "semantic"}
    assert max(rows for _, rows in passes) == max(sizes)


def test_segments_computed_together_have_the_sound_that_each_has_alone(codec_bundle):
    vocoder = Vocoder.load(codec_bundle())
    rng = np.random.default_rng(4)
    limits = np.array(vocoder.codebooks)
    segments = [rng.integers(0, limits, (count, 5)) for count in (9, 4, 14)]
    streams = [vocoder.stream(7, number) for number in range(len(segments))]
    found = [[np.empty(0, np.float32)] for _ in segments]
    for stream, groups in zip(streams, segments, strict=True):
        stream.feed(groups)
        stream.end()
    sizes = vocoder.equal_sizes(2)
    while due := [n for n, stream in enumerate(streams) if stream.due is not None]:
        alike = [n for n in due if streams[n].due == streams[due[0]].due]
        made = vocoder.advance([streams[n] for n in alike], sizes=sizes)
        for n, chunks in zip(alike, made, strict=True):
            found[n] += [chunk.pcm for chunk in chunks]
            assert all(0 < chunk.needs <= len(segments[n]) for chunk in chunks)
    assert all(stream.finished for stream in streams)
    for number, (groups, pcm) in enumerate(zip(segments, found, strict=True)):
        assert np.array_equal(np.concatenate(pcm), vocoder.synthesize(groups, 7, number))
