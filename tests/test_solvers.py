"""Reverse steps against the authors' numbers (float64, 1e-9: rounding), against enumeration, and the fast absorbing path against the plain one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_processes import GRAPHS, joint_posterior

from jddd import absorbing, grids, processes, sampling, schedules, solvers
from jddd.distill import segments
from jddd.types import BoundDenoiser


@pytest.mark.parametrize("name", GRAPHS)
def test_sedd_steps_golden(golden, name):
    """Euler and analytic (Tweedie) step probabilities, not clipped, as SEDD hands them to its sampler."""
    case, process = golden(name), GRAPHS[name]
    with jax.enable_x64(True):
        x_t = jnp.asarray(case["in_xt"])
        for i, (t, dt) in enumerate(case["in_pairs"]):
            for solver, expected in (("euler", "out_euler_probs"), ("tweedie", "out_analytic_probs")):
                found = solvers.transition(jnp.asarray(case["in_log_score"][i]), x_t, t, t - dt, process=process, solver=solver, clip=False)
                clean = np.asarray(x_t != process.mask_id)[..., None] if isinstance(process, processes.Absorbing) else False
                # From a clean site the reference's analytic step keeps the symbol after its sampler normalises; compare normalised rows there.
                reference = case[expected][i]
                reference = np.where(clean, np.eye(process.states)[np.asarray(x_t)], reference)
                found = np.where(clean, found / found.sum(-1, keepdims=True), found)
                np.testing.assert_allclose(found, reference, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("form", ["log", "score"])
@pytest.mark.parametrize("solver", ["euler", "tweedie"])
def test_lsd_steps_golden(golden, solver, form):
    """Steps with a learned coefficient, as the released code places it ('log') and as the paper does ('score'), at masked sites."""
    case, process = golden("lsd_steps"), processes.Absorbing(10, schedules.Linear(1e-3))
    with jax.enable_x64(True):
        x_t = jnp.asarray(case["in_xt"])
        masked = np.asarray(x_t == process.mask_id)
        assert masked.any()
        for i, (t, dt) in enumerate(case["in_pairs"]):
            for j, coefficient in enumerate(case["in_coeffs"]):
                score = solvers.scale_score(jnp.asarray(case["in_log_score"][i]), x_t, coefficient, "log_score" if form == "log" else "score")
                found = solvers.transition(score, x_t, t, t - dt, process=process, solver=solver, clip=False)
                expected = case[f"out_{'euler' if solver == 'euler' else 'analytic'}_{form}"][i, j]
                np.testing.assert_allclose(np.asarray(found)[masked], expected[masked], rtol=1e-9, atol=1e-9)


def test_mdlm_steps_golden(golden):
    """MDLM's ancestral posterior and its analytic step are the tweedie step here, from the same network output."""
    case, process = golden("mdlm_steps"), processes.Absorbing(12, schedules.Linear(1e-3))
    with jax.enable_x64(True):
        x_t = jnp.asarray(case["in_xt"])
        masked = np.asarray(x_t == process.mask_id)
        for i, (t, dt) in enumerate(case["in_pairs"]):
            log_p = jax.nn.log_softmax(jnp.asarray(case["in_logits"][i])[..., :12], -1)
            score = process.log_score(log_p, x_t, t)
            found = np.asarray(solvers.transition(score, x_t, t, t - dt, process=process, solver="ancestral"))
            np.testing.assert_allclose(found, case["out_ddpm_posterior"][i], rtol=1e-9, atol=1e-9)
            np.testing.assert_allclose(found[masked], case["out_analytic_probs"][i][masked], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("process", [processes.Absorbing(3), processes.Uniform(3)])
def test_tweedie_is_the_bridge_averaged_over_x_0(process):
    """sum over x_0 of p(x_0 | x_t) q(x_s | x_t, x_0), by enumeration: 'ancestral' and 'tweedie' are one law."""
    q_0 = np.random.default_rng(0).dirichlet(np.ones(9)).reshape(3, 3)
    with jax.enable_x64(True):
        t, s = 0.7, 0.4
        posterior, p_t = joint_posterior(process, q_0, t)
        x_t = jnp.stack(jnp.meshgrid(jnp.arange(process.states), jnp.arange(process.states), indexing="ij"), -1)
        score = process.log_score(jnp.log(jnp.asarray(posterior)), x_t, t)
        found = solvers.transition(score, x_t, t, s, process=process, solver="tweedie")
        expected = 0
        for x_0 in range(3):
            bridge = np.exp(segments.log_bridge(jnp.full(x_t.shape, x_0), x_t, t, s, process))
            expected = expected + posterior[..., x_0, None] * np.where(posterior[..., x_0, None] > 0, bridge, 0)
        np.testing.assert_allclose(found, expected, atol=1e-9)


def test_tau_leaping_is_the_frozen_rate_exponential():
    """The chance of no jump is exp(-total rate * step), for both processes, and jumps share the rest by rate."""
    for process in (processes.Absorbing(4, schedules.Linear(1e-3)), processes.Uniform(4)):
        with jax.enable_x64(True):
            x_t = jnp.asarray([4 if process.states == 5 else 2])
            score = process.log_score(jnp.log(jnp.asarray([[0.1, 0.2, 0.3, 0.4]])), x_t, 0.6)
            found = np.asarray(solvers.transition(score, x_t, 0.6, 0.35, process=process, solver="tau_leaping"))[0]
            rate = (1 - getattr(process.schedule, "eps", 0)) / float(process.schedule.alpha(0.6)) * np.asarray(process.rate_into(x_t) * jnp.exp(score))[0]
            stay = np.exp(-0.25 * rate.sum())
            own = int(x_t[0])
            np.testing.assert_allclose(found[own], stay, rtol=1e-9)
            others = np.arange(process.states) != own
            np.testing.assert_allclose(found[others], (1 - stay) * rate[others] / rate.sum(), rtol=1e-9)


def table_denoiser(logits):
    """A denoiser that returns one fixed table of log p (B, L, V)."""
    log_p = jax.nn.log_softmax(logits, -1)
    return BoundDenoiser(lambda x_t, t: log_p, lambda hidden: hidden)


def one_step(t, s, coefficient=1.0, temperature=1.0, confidence=0.0, last=False):
    return solvers.Step(*(jnp.asarray(v, jnp.float32) for v in (t, s, coefficient, temperature, confidence, 0, 1, 0)), jnp.asarray(last))


@pytest.mark.parametrize("form,coefficient", [("score", 0.8), ("log_score", 1.2), ("log_score", 0.8)])
@pytest.mark.parametrize("solver", ["euler", "tweedie", "tau_leaping"])
def test_fast_absorbing_step_has_the_law_of_the_transition(key, solver, form, coefficient):
    """Frequencies of 40,000 draws of the factorised step against `transition`, 5 standard errors."""
    process, rows = processes.Absorbing(4, schedules.Linear(1e-3)), 40_000
    logits = jax.random.normal(key, (2, 4))
    denoise = table_denoiser(jnp.broadcast_to(logits, (rows, 2, 4)))
    x_t = jnp.broadcast_to(jnp.asarray([4, 2]), (rows, 2))
    step = one_step(0.6, 0.3, coefficient)
    threshold = jax.random.uniform(jax.random.fold_in(key, 1), x_t.shape)
    drawn = np.asarray(absorbing.absorbing_step(key, x_t, threshold, step, denoise, process=process, solver=solver, form=form, chunk=4096))
    score = solvers.scale_score(process.log_score(jax.nn.log_softmax(logits, -1), x_t[0], 0.6), x_t[0], coefficient, form)
    law = np.asarray(solvers.transition(score, x_t[0], 0.6, 0.3, process=process, solver=solver))
    for site in range(2):
        frequency = np.bincount(drawn[:, site], minlength=5) / rows
        np.testing.assert_allclose(frequency, law[site], atol=float(5 * np.sqrt((law[site] * (1 - law[site])).max() / rows)))


@pytest.mark.parametrize("chunk", [1, 7, 64, 1000])
@pytest.mark.parametrize("form,coefficient", [("score", 1.0), ("log_score", 1.3), ("log_score", 0.7)])
def test_skipping_gives_the_very_same_sample(key, form, coefficient, chunk):
    """The head and the draw only where a site can be revealed: bit for bit the sample of the plain path, for every chunk size."""
    process, shape = processes.Absorbing(9, schedules.Linear(1e-3)), (6, 20)
    x_0 = jax.random.randint(key, shape, 0, 9)
    x_t = process.corrupt(jax.random.fold_in(key, 1), x_0, jnp.asarray(0.7))
    denoise = table_denoiser(jax.random.normal(jax.random.fold_in(key, 2), (*shape, 9)))
    threshold = jax.random.uniform(jax.random.fold_in(key, 3), shape)
    for last in (False, True):
        step = one_step(0.7, 0.35, coefficient, last=last)
        options = dict(process=process, solver="tweedie", form=form)
        plain = absorbing.absorbing_step(key, x_t, threshold, step, denoise, chunk=0, **options)
        fast = absorbing.absorbing_step(key, x_t, threshold, step, denoise, chunk=chunk, **options)
        assert (plain == fast).all()
        assert (plain == x_0)[x_t != 9].all()  # clean sites stay
        assert (plain != 9).all() or not last
        assert last or (plain != x_t).any()


def test_no_confidence_is_a_random_order(key):
    """ordered with confidence 0 reveals as many sites, uniformly chosen: the plain law. With a large one the surest symbols come first."""
    process, rows = processes.Absorbing(2), 20_000
    logits = jnp.broadcast_to(jnp.asarray([[6.0, 0.0], [0.5, 0.0], [0.0, 0.0]]), (rows, 3, 2))
    x_t = jnp.full((rows, 3), 2)
    threshold = jax.random.uniform(jax.random.fold_in(key, 1), x_t.shape)
    run = lambda confidence: np.asarray(
        absorbing.absorbing_step(key, x_t, threshold, one_step(1.0, 0.5, confidence=confidence), table_denoiser(logits), process=process, solver="tweedie", form="score", reveal="confident")
    )
    plain, sure = run(0.0) != 2, run(1e4) != 2
    assert (plain.sum(1) == sure.sum(1)).all()  # the same number of reveals a row
    np.testing.assert_allclose(plain.mean(0), 0.5, atol=5 * 0.5 / np.sqrt(rows))
    assert sure[:, 0].mean() > 0.87 and sure[:, 2].mean() < sure[:, 0].mean()  # site 0 first: revealed unless no site is (1/8)


def test_rare_symbols_have_their_frequency(key):
    """At a vocabulary of 50,000 the draw's tail is right: a set of symbols of total probability 1e-3, each 2e-8, is hit as often as it should be.

    Float32 noise with a cut tail never draws a symbol 17 nats below the most likely one; 'high' does."""
    vocabulary, draws, rare = 50_000, 4096, 1e-3
    log_p = jnp.log(jnp.full(vocabulary, rare / (vocabulary - 1)).at[0].set(1 - rare))
    one = jax.jit(lambda sites: jnp.argmax(log_p + solvers.gumbel(key, sites, vocabulary, "high"), -1))
    hits = sum(int((one(jnp.arange(i, i + 128)) != 0).sum()) for i in range(0, draws, 128))
    assert abs(hits - draws * rare) < 5 * np.sqrt(draws * rare)
    assert hits > 0


def test_canonical_names_one_law():
    """'euler' is 'tweedie' for the absorbing process with a linear schedule and differs with a geometric one."""
    for schedule, same in ((schedules.Linear(1e-3), True), (schedules.Geometric(), False)):
        process = processes.Absorbing(5, schedule)
        assert (solvers.canonical("euler", process) == "tweedie") is same
        hazards = [float(absorbing.log_hazard(process, jnp.asarray(0.7), jnp.asarray(0.5), solver)) for solver in ("euler", "tweedie")]
        assert (abs(hazards[0] - hazards[1]) < 1e-5) is same


def test_bad_samplers_are_refused():
    """Each bad value of a student gets an error that names it."""
    process = processes.Absorbing(4)
    good = sampling.plain(grids.uniform(4))
    cases = [
        (dict(solver="heun"), good, "sampler.solver"),
        (dict(form="logit"), good, "sampler.form"),
        (dict(precision="double"), good, "sampler.precision"),
        ({}, good.replace(times=good.times[::-1]), "sampler.times"),
        ({}, good.replace(times=good.times[:-1]), "sampler.times"),
        ({}, good.replace(coefficients=good.coefficients * jnp.nan), "sampler.coefficients"),
        ({}, good.replace(temperatures=good.temperatures * 0), "sampler.temperatures"),
        (dict(form="log_score"), good, "sampler.form"),
    ]
    for options, student, field in cases:
        with pytest.raises(ValueError, match=field):
            sampling.check(student, **{"process": process, "solver": "tweedie", "form": "score", **options})
