"""What a table of networks says beside its samples: gaps that are closed, code lengths of held-out data, the two networks of a hybrid."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jddd import compare, grids, pretrained, processes, sampling, schedules
from jddd.distill import di4c, mixtures
from jddd.evaluate import Bench
from jddd.runs import Entry
from jddd.types import Denoiser

MASKED = processes.Absorbing(2, schedules.Linear(eps=0.0))


def row(sampler, nfe, value, low, high, grid="uniform", **more):
    return {"sampler": sampler, "grid": grid, "nfe": nfe, "validity": value, "validity_interval": [low, high], "entropy_1": 2.0, "entropy_4": 8.0, "uniqueness": 1.0} | more


def test_gaps_are_shares_of_what_the_teacher_lacks():
    """(row - plain) / (long - plain) at the row's own calls, its interval the same of the row's; nan where plain sampler and long run are not told apart."""
    rows = [
        row("Teacher", 64, 0.8, 0.7, 0.9),
        *(row("Teacher", 4, 0.2, 0.1, 0.3), row("Teacher", 8, 0.7, 0.6, 0.8), row("Student", 4, 0.5, 0.35, 0.65, "learned", entropy_1=1.9, entropy_4=8.4), row("Student", 8, 0.75, 0.7, 0.8)),
    ]
    found = {(r["sampler"], r["nfe"]): r for r in compare.gaps(rows, "validity")}
    assert found["Student", 4]["closed"] == pytest.approx(0.5) and found["Student", 4]["closed_interval"] == pytest.approx([0.25, 0.75])
    assert found["Student", 4]["entropy_4 over the teacher's"] == pytest.approx(1.05) and found["Student", 4]["entropy_1 over the teacher's"] == pytest.approx(0.95)
    assert found["Teacher", 4]["closed"] == 0 and np.isnan(found["Student", 8]["closed"])


def test_gaps_of_a_figure_that_should_be_low():
    """Violations: what falls towards the long run's closes the gap, and its interval is in order."""
    rows = [row("Teacher", 64, 0.1, 0.05, 0.15), row("Teacher", 4, 0.5, 0.4, 0.6), row("Student", 4, 0.2, 0.15, 0.3)]
    student = compare.gaps(rows, "validity")[1]
    assert student["closed"] == pytest.approx(0.75) and student["closed_interval"] == pytest.approx([0.5, 0.875])


# Equal pairs: sites 0 and 1 are the same fair coin, 2 and 3 another. The product knows a site whose partner is clean; the mixture has a bit for both pairs.
def _known(x_t):
    partner = x_t[:, jnp.asarray([1, 0, 3, 2])]
    seen = jnp.log(jnp.clip(jax.nn.one_hot(partner, 2), 1e-9))
    return jnp.where((partner == 2)[..., None], jnp.log(0.5), seen), partner == 2


PRODUCT = Denoiser(lambda params, x_t, t: _known(x_t)[0], lambda params, hidden: hidden)


def _coin(params, x_t, t, latent):
    log_p, free = _known(x_t)
    bit = jnp.log(jnp.clip(jax.nn.one_hot((latent[:, None] < 0.5).astype(jnp.int32) * jnp.ones((1, 4), jnp.int32), 2), 1e-9))
    return jnp.where(free[..., None], bit, log_p)


MIXTURE = Denoiser(_coin, lambda params, hidden: hidden, True)
DATA = np.asarray([[0, 0, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0], [1, 1, 1, 1]] * 8)


def test_code_lengths_of_one_step():
    """In one step four equal symbols cost the product a bit each, and the mixture one bit in all: the latent says which."""
    lengths = lambda denoiser: compare.code_lengths(jax.random.key(0), {}, DATA, denoiser=denoiser, process=MASKED, nfe=(1,))[0]
    for reveal in ("independent", "spread"):
        assert lengths(PRODUCT)[reveal] == pytest.approx(4, abs=1e-4) and lengths(MIXTURE)[reveal] == pytest.approx(1, abs=1e-4)


def test_code_lengths_fall_with_calls():
    """A pair costs one bit, and another where one of n steps reveals both of its sites, probability 1/n: 2 + 2/n for two pairs, within 5 standard errors of 32
    rows. Spread reveals keep partners apart once a step has room for two sites only. Networks that are asked with one key see the same noise."""
    lengths = lambda: compare.code_lengths(jax.random.key(0), {}, DATA, denoiser=PRODUCT, process=MASKED, nfe=(1, 2, 4, 64))
    for found in lengths():
        n = found["nfe"]
        assert abs(found["independent"] - (2 + 2 / n)) <= 5 * (2 * (1 - 1 / n) / n / 32) ** 0.5 + 1e-4  # 1e-4: 1e-9 stands for 0
    assert found["spread"] == pytest.approx(2, abs=1e-4) and lengths() == lengths()


def test_gain_of_a_step():
    """Of four tied sites all at once the bit says three bits that marginals do not; a step from t = 1 that reveals n of them, n - 1: 3/4 on average for a step
    of 1/2 (n binomial of 4 and 1/2: E max(n - 1, 0) = 1 + 1/16), 0 when at most one is revealed."""
    gain = lambda step: di4c.gain(jax.random.key(1), {}, jnp.asarray(np.tile(DATA, (40, 1))), jnp.ones(1280), student=MIXTURE, process=MASKED, step=step) / np.log(2)
    np.testing.assert_allclose(gain(None), 3, atol=1e-3)
    whole = np.asarray(gain(0.5))
    assert abs(whole.mean() - (1 + 1 / 16)) < 5 * whole.std() / 1280**0.5 and set(np.round(whole).astype(int)) == {0, 1, 2, 3}


def test_a_hybrid_gives_the_last_steps_to_the_teacher(tmp_path):
    """Of 4 steps at share .5 the first two call the student and the last two the teacher."""
    student, teacher = (Denoiser(lambda params, x_t, t: jnp.full((*x_t.shape, 2), params), lambda params, hidden: hidden) for _ in range(2))
    times = np.asarray(grids.uniform(4))
    entry = Entry("Di4C", "uniform", sampling.plain(grids.uniform(4)))
    network = pretrained.load("teacher_text").network
    of = lambda denoiser, params: pretrained.Pretrained(jnp.asarray(params), network._replace(denoiser=denoiser), {})
    bench = Bench(student, MASKED, jnp.asarray(1.0), length=4, count=8, batch=8, seed=0, precision="high", cache=tmp_path, score=lambda samples: {})
    bench = compare.hybrid_bench(bench, of(student, 1.0), of(teacher, 2.0), entry, 0.5)
    called = [float(bench.denoiser(bench.params, jnp.zeros((1, 4), jnp.int32), t)[0, 0, 0]) for t in times[:-1]]
    assert called == [1, 1, 2, 2] and bench.denoiser is mixtures.hybrid(student, teacher)
