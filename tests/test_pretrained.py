"""The networks that ship: that they are as good as their description says, and that the judge tells good text from bad."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jddd import build, pretrain, pretrained
from jddd.experiment import judge_order
from jddd.metrics.text import Scorer
from jddd.models import exact


@pytest.fixture(scope="module")
def test_windows():
    network = pretrained.load("teacher_text").network
    data = build.section(build.DataConfig, {}, "data")
    return build.corpus(data, network.tokenizer, "test").windows(256)


@pytest.mark.parametrize("name", ["teacher_text", "teacher_text_uniform", "judge_text"])
def test_shipped_networks_reach_their_stated_bits(name, test_windows):
    """Bits a character on 256 held-out windows agree with the description's figure, from 2048 windows, within 4 standard errors."""
    net = pretrained.load(name)
    stated = net.description["metrics"]["test_bits_per_symbol"]
    bits, error = pretrain.bits_per_symbol(jax.random.key(5), net.params, test_windows, net.network)
    assert 0 < error < 0.2 and abs(bits - stated) < 4 * error
    assert 1.0 < stated < 4.0  # below the order-0 entropy of the text, 4.08 bits


def test_shipped_countdown_teacher():
    """A score network: its NELBO on fresh sequences is the stated one within 4 standard errors, and within 5 % of the chain's own code length."""
    net = pretrained.load("teacher_countdown")
    stated = net.description["metrics"]["test_bits_per_symbol"]
    x = build.corpus(build.section(build.DataConfig, net.description["data"], "data"), net.network.tokenizer, "valid").windows(256)
    bits, error = pretrain.bits_per_symbol(jax.random.key(5), net.params, x, net.network)
    best = float(-exact.countdown(32, 1e-9).log_likelihood(jnp.asarray(x)).mean()) / 256 / np.log(2)
    assert abs(bits - stated) < 4 * error and net.network.scores is not None
    assert best < stated < 1.05 * best


def test_judge_orders_texts(test_windows):
    """Held-out text < text with its words shuffled < random letters, each with its entropy beside it."""
    scorer = Scorer(pretrained.load("judge_text"), frozenset(), 10)
    rows = judge_order(scorer, test_windows[:64], test_windows[64:128], test_windows[128:192], "other held-out text", 0)
    bits = {r["text"]: r["judge_bits"] for r in rows}
    assert bits["held-out text"] < bits["held-out text, words shuffled"] < bits["random letters"]
    assert all(0 < r["entropy_1"] < np.log2(28) and r["entropy_4"] > r["entropy_1"] for r in rows)
