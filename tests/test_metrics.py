"""Figures of samples of text, against closed forms, against counting in plain python, and against direct sums."""

import collections
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jddd.metrics import sequences
from jddd.metrics import text as metrics
from jddd.models import dit


def python_grams(samples, n):
    """The n-grams within each row, as tuples."""
    return [[tuple(row[i : i + n]) for i in range(len(row) - n + 1)] for row in np.asarray(samples).tolist()]


# -------------------------------------------------------------------------------------------------------------------------- entropy and n-grams
@pytest.mark.parametrize(
    ("counts", "bits"),
    [
        ([5], 0.0),
        ([3, 3], 1.0),
        ([2] * 8, 3.0),
        ([4, 2, 1, 1], 1.75),  # halves: 1/2, 1/4, 1/8, 1/8
        ([1, 0, 3, 0], 2 - 0.75 * math.log2(3)),  # identities that do not occur count for nothing
        (range(1, 28), math.log2(378) - sum(k * math.log2(k) for k in range(1, 28)) / 378),
    ],
)
def test_entropy_in_closed_form(counts, bits):
    """-sum p log2 p of the empirical distribution, whatever the order and the shape of what is counted."""
    identities = np.repeat(np.arange(len(counts)), counts)
    shuffled = np.random.default_rng(0).permutation(identities)
    # float64 sums of at most 27 terms of order 1
    assert sequences.entropy(shuffled) == pytest.approx(bits, abs=1e-12)
    assert sequences.entropy(np.stack([shuffled, shuffled])) == pytest.approx(bits, abs=1e-12)


@pytest.mark.parametrize("symbols", [3, 27, 50_000], ids=["few", "text8", "past 62 bits"])
@pytest.mark.parametrize("n", [1, 2, 4])
def test_ngrams_are_those_python_counts(symbols, n):
    """Two windows have the same number if and only if they hold the same n-gram; numbers run 0, 1, ... without gaps. 50,000^4 > 2^62."""
    samples = np.random.default_rng(1).integers(0, symbols, (6, 12))
    samples[3:, 2:9] = samples[:3, 1:8]  # so that even 50,000 symbols repeat
    samples[0, 0] = symbols - 1
    identities, grams = sequences.ngrams(samples, n), python_grams(samples, n)
    assert identities.shape == (6, 12 - n + 1)
    pairs = {(int(i), g) for row, texts in zip(identities, grams) for i, g in zip(row, texts)}
    flat = [g for row in grams for g in row]
    assert len(pairs) == len(set(flat)) == len({i for i, _ in pairs}) < len(flat)
    assert sorted(set(identities.ravel().tolist())) == list(range(len(pairs)))
    counts = collections.Counter(flat)
    direct = -sum(c / len(flat) * math.log2(c / len(flat)) for c in counts.values())
    assert sequences.entropy(identities) == pytest.approx(direct, abs=1e-12)  # float64 sums of fewer than 100 terms
    assert sequences.distinct(identities) == pytest.approx(len(counts) / len(flat), abs=1e-15)  # one float64 division


def test_ngrams_of_large_alphabets_do_not_collide():
    """2^20 symbols: as a number of base 2^20 the last symbol of a 4-gram would be kept modulo 16 in 64 bits, and these three would be two."""
    assert len(np.unique(sequences.ngrams(np.array([[1, 2, 3, 4], [1, 2, 3, 20], [0, 0, 0, 2**20 - 1]]), 4))) == 3


def test_ngrams_do_not_cross_rows():
    """The end of one sample and the start of the next make no n-gram."""
    assert sequences.distinct(sequences.ngrams(np.array([[0, 0], [1, 1]]), 2)) == 1.0
    assert sequences.entropy(sequences.ngrams(np.array([[0, 0], [1, 1]]), 2)) == 1.0


@pytest.mark.parametrize(("rows", "share"), [([[0, 0, 0, 0]], 0.25), ([[0, 1, 2, 3]], 1.0), ([[0, 1], [0, 1]], 0.5)])
def test_distinct(rows, share):
    """Different unigrams over all unigrams."""
    assert sequences.distinct(sequences.ngrams(np.array(rows), 1)) == share


# ------------------------------------------------------------------------------------------------------------------------------------------ words
def test_spelled_words():
    """Whole words only: the first and the last piece of a sample are cut. Doubled spaces make no word; a sample without whole words has no share."""
    vocabulary = frozenset(["the", "cat", "sat"])
    texts = ["xx the cat zzz the yy", "the cat the", "zz qq zz", "the cat", "nospaceatall", " the  sat ", "a b c  the d"]
    np.testing.assert_array_equal(metrics.spelled(texts, vocabulary), [3 / 4, 1.0, 0.0, np.nan, np.nan, 1.0, 1 / 3])
    assert metrics.whole_words("ut the cat sat on") == ["the", "cat", "sat"]


# ------------------------------------------------------------------------------------------------------------------------------------------ judge
@pytest.fixture(scope="module")
def judge():
    """A causal network of 5 symbols and a start symbol, with a window of 6 and weights that are not at their zeros."""
    config = dit.DiTConfig(states=6, symbols=5, width=8, depth=1, heads=1, causal=True)
    shapes = jax.eval_shape(lambda key: dit.init(key, config, 6), jax.random.key(0))
    generator = np.random.default_rng(0)
    return dit.denoiser(config), jax.tree.map(lambda s: jnp.asarray(generator.normal(0.0, 0.5, s.shape), s.dtype), shapes)


@pytest.mark.parametrize("length", [6, 4, 15], ids=["a window", "shorter", "longer"])
def test_judge_bits_is_the_sum_of_its_conditionals(judge, length):
    """-1/L sum_i log2 p(x_i | x_<i), one network call a prefix; a sample longer than the judge's window is judged in pieces that each start afresh."""
    network, params = judge
    samples = np.random.default_rng(2).integers(0, 5, (7, length))
    have = metrics.judge_bits(params, samples, denoiser=network, start_id=5, length=6, batch=4)
    call = jax.jit(lambda x: network(params, x, jnp.ones(())))
    total = np.zeros(7)
    for begin in range(0, length, 6):
        piece = samples[:, begin : begin + 6]
        for i in range(piece.shape[1]):
            prefix = np.concatenate([np.full((7, 1), 5), piece[:, :i]], 1)
            padded = np.pad(prefix, ((0, 0), (0, 6 - prefix.shape[1])))  # the network is causal: what follows position i does not matter
            total -= np.asarray(call(padded), np.float64)[np.arange(7), i, piece[:, i]] / math.log(2)
    assert have.shape == (7,) and np.ptp(have) > 0.1
    np.testing.assert_allclose(have, total / length, rtol=1e-5)  # float32 log-probabilities of order 1, summed in another order


def test_judge_bits_are_those_of_a_distribution(judge):
    """sum over all texts of 2^(-L bits) = 1: the judge's code lengths are those of a probability distribution."""
    network, params = judge
    everything = np.stack(np.meshgrid(*[np.arange(5)] * 4, indexing="ij"), -1).reshape(-1, 4)
    bits = metrics.judge_bits(params, everything, denoiser=network, start_id=5, length=6, batch=625)
    assert (2.0 ** (-4 * bits)).sum() == pytest.approx(1.0, rel=1e-5)  # 625 probabilities, each with the error of a few float32 roundings


# -------------------------------------------------------------------------------------------------------------------------------------- intervals
def test_bootstrap_covers_a_known_mean():
    """A 95 % interval covers the true mean in about 95 % of experiments, and its width is about 2 * 1.96 sigma / sqrt(n)."""
    generator = np.random.default_rng(3)
    covered, widths, runs, n = 0, [], 200, 64
    for run in range(runs):
        values = generator.normal(2.0, 1.0, n)
        low, high = sequences.bootstrap(lambda index: float(values[index].mean()), n, seed=run)
        covered += low <= 2.0 <= high
        widths.append(high - low)
    # binomial(200, 0.94): standard deviation 3.4, so 4 of them below 188; above, an interval that always covers would be too wide
    assert 174 <= covered <= 199
    assert np.mean(widths) == pytest.approx(2 * 1.96 / math.sqrt(n), rel=0.05)  # 200 widths that scatter by about 10 % each


def test_bootstrap_is_repeatable_and_ordered():
    """The same seed gives the same interval; a constant statistic has an interval of width zero; a lower level gives a narrower one."""
    values = np.random.default_rng(4).normal(size=50)
    mean = lambda index: float(values[index].mean())
    assert sequences.bootstrap(mean, 50, seed=1) == sequences.bootstrap(mean, 50, seed=1) != sequences.bootstrap(mean, 50, seed=2)
    assert sequences.bootstrap(lambda index: 3.5, 50) == (3.5, 3.5)
    low, high = sequences.bootstrap(mean, 50)
    inner_low, inner_high = sequences.bootstrap(mean, 50, level=0.5)
    assert low < inner_low < inner_high < high


def test_jackknife_of_a_mean_is_the_standard_error():
    """For a mean over blocks of one row the jackknife is the textbook interval, mean -+ 1.96 s / sqrt(n)."""
    values = np.random.default_rng(5).normal(size=16)
    low, high = sequences.jackknife(lambda index: float(values[index].mean()), 16)
    error = values.std(ddof=1) / 4
    np.testing.assert_allclose([low, high], [values.mean() - 1.96 * error, values.mean() + 1.96 * error], rtol=1e-10)  # float64


def test_intervals_hold_the_figures():
    """score: every figure lies in its interval. The bootstrap's interval of an entropy would not hold it (a resample repeats rows), the jackknife's does."""
    samples = np.random.default_rng(6).integers(0, 27, (24, 40))
    bits = np.random.default_rng(7).normal(3.0, 0.2, 24)
    letters = np.array(list(" abcdefghijklmnopqrstuvwxyz"))
    texts = ["".join(letters[row]) for row in samples]
    vocabulary = frozenset(word for text in texts[::2] for word in metrics.whole_words(text) if word)
    figures = metrics.score(samples, bits, texts, vocabulary, repeats=50)
    for name in ("judge_bits", "words", "entropy_1", "entropy_4"):
        low, high = figures[f"{name}_interval"]
        assert low < figures[name] < high, name
    four = sequences.ngrams(samples, 4)
    _, resampled_high = sequences.bootstrap(lambda index: sequences.entropy(four[index]), 24, repeats=50)
    assert resampled_high < figures["entropy_4"]
    assert figures["judge_bits"] == pytest.approx(bits.mean(), rel=1e-12)  # the same float64 mean
    assert figures["entropy_1"] == sequences.entropy(samples) and figures["distinct_4"] == sequences.distinct(four)
    assert 0.4 < figures["words"] < 1.0  # half of the samples gave the vocabulary
