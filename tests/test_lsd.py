"""What LSD's objectives do at their optimum: the gradient reaches the dynamic programme; the paper's own losses shrink, and the remedies cure them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_profile import PROCESS, exact, markov_data
from test_sampling import all_equal

from jddd import grids, processes, sampling, schedules
from jddd.distill import lsd
from jddd.distill import profile as profiles

STEPS = 4


def curved_profile(power=3.0, form_sites=64):
    """A profile with CE(m) = 0.2 + m^power: what a strong teacher's looks like."""
    rates = profiles.default_rates(129)
    log_p = -(0.2 + rates[:, None] ** power) * jnp.ones((1, form_sites))
    exponents = jnp.asarray(profiles.EXPONENTS)
    # Each site has two symbols, the true one with the probability its cross-entropy says.
    log_mass = jnp.logaddexp(exponents[None, :, None] * log_p[:, None], exponents[None, :, None] * jnp.log(-jnp.expm1(log_p))[:, None])
    return profiles.Profile(rates, exponents, log_p, log_mass, jnp.ones(log_p.shape, bool))


@pytest.mark.parametrize("learn_times", [False, True])
def test_gradient_reaches_the_dynamic_programme(learn_times):
    """On the score form, learned coefficients alone (LSD) and with times (LSD+) come within 1 % of the exact optimum of the objective."""
    profile = curved_profile()
    best = profiles.optimal_rates(profile, STEPS)[1]
    start = float(profiles.grid_cost(profile, grids.uniform(STEPS)))
    cost = lsd.path_cost(profile, process=PROCESS, solver="tweedie", form="score")
    student = lsd.distil(STEPS, lsd.LSDConfig(learn_times=learn_times), process=PROCESS, solver="tweedie", cost=cost)
    reached = float(cost[0](student, profile))
    assert reached < best * 1.01 and reached > best * 0.99 and start > best * 1.02
    assert float(student.times[0]) == 1 and float(student.times[-1]) == 0
    if not learn_times:
        np.testing.assert_allclose(student.times, grids.uniform(STEPS), atol=1e-6)


def test_path_kl_of_the_plain_sampler_is_the_riemann_sum():
    """With nothing learned, both forms price a grid at sum (m_k - m_{k+1}) CE(m_k)."""
    profile, process = curved_profile(), processes.Absorbing(3, schedules.Linear(1e-3))
    student = sampling.plain(grids.uniform(STEPS))
    masked = 1 - process.schedule.alpha(student.times)
    for form in ("score", "log_score"):
        value = lsd.path_kl(student, profile, process=process, solver="tweedie", form=form)
        np.testing.assert_allclose(value, profiles.grid_cost(profile, masked), rtol=2e-3)  # the log-score form interpolates its tables


def test_calibrated_coefficients_stay_near_one():
    """For a calibrated teacher the log-score coefficient has nothing to sharpen at the last step: its cross-entropy is least at 1."""
    exponents = np.asarray(profiles.EXPONENTS)
    p = jax.nn.softmax(2 * jax.random.normal(jax.random.key(0), (4096, 5)), -1)
    y = jax.random.categorical(jax.random.key(1), jnp.log(p))
    costs = [float(-jnp.take_along_axis(jax.nn.log_softmax(c * jnp.log(p), -1), y[:, None], -1).mean()) for c in exponents]
    assert abs(exponents[int(np.argmin(costs))] - 1) <= 0.13  # one point of the table


def products(config, key=0, steps=8, rows=512):
    """Inner products of the paper's objective on an exactly solvable teacher (four equal sites, three symbols)."""
    process, denoiser = processes.Absorbing(3, schedules.Linear(1e-3)), all_equal(3)
    chain = lsd.teacher_chain(jax.random.key(key), (), (rows, 4), denoiser=denoiser, process=process, solver="euler", config=config)
    index = np.arange(steps) * config.teacher_steps // steps
    student = sampling.plain(grids.uniform(steps))
    teacher = chain._replace(states=chain.states[index], times=chain.times[index])
    found = lsd.measure_products(jax.random.key(key + 1), (), student, teacher, denoiser=denoiser, process=process, solver="euler", config=config)
    return found, (process, denoiser, chain)


PAPER = lsd.LSDConfig(objective="paper", teacher_steps=64, steps=400, rounds=1, relaxed=0.0, learn_times=False, renormalise=False)


def test_paper_objective_reaches_its_closed_form():
    """Eq. 6's optimum is Phi* = <s*, s> / <s, s>; the optimiser gets there, and it lies far below 1 because the chains are independent draws."""
    found, (process, denoiser, chain) = products(PAPER)
    closed = np.asarray(found.cross / found.own)
    assert closed[0] == pytest.approx(1, abs=1e-3)  # both chains start from the same masks
    assert closed[-1] < 0.6 and closed[2:].mean() < 0.75
    student = lsd.distil(8, PAPER, process=process, solver="euler", chain=chain, params=(), denoiser=denoiser)
    assert float(student.coefficients[0]) == pytest.approx(1, abs=0.02)
    assert np.asarray(student.coefficients)[-1] < 0.7


def test_coupled_noise_cures_most_of_the_attenuation():
    """With one draw of noise for both chains the scores agree, and Phi* comes back towards 1; at the same state it is exactly 1."""
    free, coupled, same = (
        np.asarray(found.cross / found.own)
        for found, _ in (products(dataclasses.replace(PAPER, noise=noise)) for noise in ("independent", "coupled", "same_state"))
    )
    assert (coupled[2:] > free[2:] + 0.1).all()
    np.testing.assert_allclose(same, 1, rtol=1e-5)  # the very same scores


def test_step_sizes_collapse_unless_renormalised():
    """Eq. 8 compares one student step with one of the teacher's N: literally minimised, the sizes sum to about M / N of the interval."""
    config = dataclasses.replace(PAPER, learn_times=True, noise="same_state", learning_rate=0.05, steps=600)
    _, (process, denoiser, chain) = products(config)
    options = dict(process=process, solver="euler", chain=chain, params=(), denoiser=denoiser)
    literal = lsd.distil(8, config, **options)
    assert 1 - float(literal.times[-1]) == pytest.approx(8 / 64, rel=0.25)
    cured = lsd.distil(8, dataclasses.replace(config, renormalise=True), **options)
    assert float(cured.times[-1]) == 0 and (np.diff(np.asarray(cured.times)) < 0).all()


def test_relaxed_start_takes_sites_of_the_teachers_sample():
    """With half the sites relaxed, a site is still masked with probability 1/2 and then knows its symbol (squared norm 1, else 1/3) with probability
    7/8: <s, s> at t_0 becomes (7/8 + 1/24) / 2 over 1/3 = 1.375 of the plain one. 5 %: 512 rows."""
    plain, _ = products(PAPER)
    relaxed, _ = products(dataclasses.replace(PAPER, relaxed=0.5))
    assert float(relaxed.own[0] / plain.own[0]) == pytest.approx(1.375, rel=0.05)


def test_the_papers_objective_taken_literally_makes_samples_worse():
    """On four equal sites: independent chains shrink the coefficients, too few sites are revealed early and too many at once at the end."""
    _, (process, denoiser, chain) = products(PAPER)
    literal = lsd.distil(8, PAPER, process=process, solver="euler", chain=chain, params=(), denoiser=denoiser)
    run = sampling.sampler(denoiser, process, (20_000, 4))
    wrong = lambda student: float((np.asarray(x := run(jax.random.key(0), (), student)) != np.asarray(x)[:, :1]).any(1).mean())
    assert wrong(literal) > wrong(sampling.plain(grids.uniform(8))) + 0.02  # 5 standard errors are 0.018


def test_the_teacher_is_untouched_and_learning_is_reproducible():
    """Same seed, same student, bit for bit; parameters go in as an argument and come out as they were."""
    x_0 = markov_data(jax.random.key(3), 256)
    profile = profiles.measure(jax.random.key(0), (), x_0, profiles.default_rates(), denoiser=exact(), process=PROCESS, batch=256)
    cost = lsd.path_cost(profile, process=PROCESS, solver="tweedie", form="score")
    config = lsd.LSDConfig(steps=50)
    first, second = (lsd.distil(3, config, process=PROCESS, solver="tweedie", cost=cost) for _ in range(2))
    assert all((np.asarray(a) == np.asarray(b)).all() for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second)))


def test_bad_settings_are_refused():
    for field, value in (("objective", "l1"), ("form", "logit"), ("noise", "shared")):
        with pytest.raises(ValueError, match=f"distill.{field}"):
            lsd.LSDConfig(**{field: value})
    with pytest.raises(ValueError, match="distill.relaxed"):
        lsd.LSDConfig(relaxed=1.5)
