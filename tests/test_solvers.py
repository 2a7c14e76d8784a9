"""Reverse steps against the authors' numbers (float64, 1e-9: rounding), against enumeration, and the fast absorbing path against the plain one."""

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from test_processes import GRAPHS, joint_posterior

from jddd import absorbing, grids, processes, remasking, sampling, schedules, solvers
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
    one = jax.jit(lambda sites: solvers.draw(key, jnp.broadcast_to(log_p, (len(sites), vocabulary)), sites, "high"))
    hits = sum(int((one(jnp.arange(i, i + 128)) != 0).sum()) for i in range(0, draws, 128))
    assert abs(hits - draws * rare) < 5 * np.sqrt(draws * rare)
    assert hits > 0


def test_two_stages_draw_the_law(key):
    """A vocabulary large enough for blocks, no multiple of their width: 16 groups of symbols, scattered over all blocks, have their probabilities (5 standard
    errors), of 60,000 draws of one law with probabilities from 1e-9 to .1; and no symbol past the vocabulary is drawn."""
    size, draws = solvers.BLOCKED + 37, 60_000
    log_p = jax.nn.log_softmax(4 * jax.random.normal(key, (size,)))
    drawn = np.asarray(jax.jit(lambda sites: jax.lax.map(lambda site: solvers.draw(key, log_p[None], site[None], "high")[0], sites, batch_size=2000))(jnp.arange(draws)))
    group = np.random.default_rng(0).permutation(size) % 16
    p = np.bincount(group, weights=np.exp(np.asarray(log_p, np.float64)), minlength=16)
    assert drawn.max() < size
    np.testing.assert_allclose(np.bincount(group[drawn], minlength=16) / draws, p, atol=5 * np.sqrt((p * (1 - p)).max() / draws))


def test_large_vocabularies_take_the_same_paths(key):
    """With blocks too the skipping path draws the plain path's samples, at any temperature."""
    size = solvers.BLOCKED + 5
    process = processes.Absorbing(size)
    denoise = table_denoiser(jax.random.normal(key, (3, 6, size)))
    for temperature in (1.0, 0.7):
        student = sampling.plain(jnp.asarray([1.0, 0.6, 0.3, 0.0]), temperature)
        plain, skipping = (sampling.sample(key, student, denoise, (3, 6), process=process, chunk=chunk) for chunk in (0, 4))
        np.testing.assert_array_equal(plain, skipping)


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
        ({}, good.replace(times=good.times[:1], **{k: v[:0] for k, v in vars(good).items() if k != "times"}), "sampler.times"),
        ({}, good.replace(corrections=-good.corrections), "sampler.corrections is .* allowed: finite numbers of 0 or more"),
        (dict(theta=1.0), good, "sampler.theta"),
        ({}, good.replace(coefficients=good.coefficients * jnp.nan), "sampler.coefficients"),
        ({}, good.replace(temperatures=good.temperatures * 0), "sampler.temperatures"),
        (dict(form="log_score"), good, "sampler.form"),
    ]
    for options, student, field in cases:
        with pytest.raises(ValueError, match=field):
            sampling.check(student, **{"process": process, "solver": "tweedie", "form": "score", **options})


@pytest.mark.parametrize("field", ["coefficients", "temperatures", "confidences", "remasks", "corrections", "bounds"])
def test_numbers_are_one_a_step(field):
    """A scalar, and a number too few, are refused by name; without the types of the tests, which have no say in a user's program."""
    good = sampling.plain(grids.uniform(4))
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        for values in (jnp.ones(()), getattr(good, field)[:-1]):
            with pytest.raises(ValueError, match=f"sampler.{field} has shape"):
                sampling.check(good.replace(**{field: values}), process=processes.Absorbing(4), solver="tweedie", form="score")
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


def test_mdlm_last_step_golden(golden):
    """The noise removal step draws from the posterior at masked sites, and keeps clean ones."""
    case, process = golden("mdlm_steps"), processes.Absorbing(12, schedules.Linear(1e-3))
    with jax.enable_x64(True):
        x_t = jnp.asarray(case["in_xt"])
        masked = np.asarray(x_t == 12)
        for t, logits, expected in zip(case["in_t_denoise"], case["in_logits_denoise"], case["out_denoise_probs"]):
            log_p = jax.nn.log_softmax(jnp.asarray(logits)[..., :12], -1)
            step = one_step(0.5, 0.0, last=True)._replace(t=jnp.asarray(t), s=jnp.zeros(()))
            law, _ = solvers.stage_law(log_p, (x_t,), (), step, 0, process=process, solver="tweedie", form="score")
            np.testing.assert_allclose(np.asarray(law)[masked], expected[masked], rtol=1e-9, atol=1e-9)
            np.testing.assert_allclose(np.asarray(law)[~masked], np.eye(13)[np.asarray(x_t)[~masked]])


def test_sdtt_steps_golden(golden):
    """SDTT's analytic and ancestral steps are the tweedie step from the same network output."""
    case, process = golden("sdtt_steps"), processes.Absorbing(11, schedules.Linear(1e-3))
    with jax.enable_x64(True):
        x_t = jnp.asarray(case["in_xt"])
        masked = np.asarray(x_t == 11)
        for i, (t, dt) in enumerate(case["in_pairs"]):
            log_p = jax.nn.log_softmax(jnp.asarray(case["in_logits"][i])[..., :11], -1)
            np.testing.assert_allclose(np.exp(log_p)[masked], np.exp(case["out_log_p_x0"][i])[masked][:, :11], rtol=1e-9, atol=1e-12)
            score = process.log_score(log_p, x_t, t)
            np.testing.assert_allclose(np.exp(score)[masked], case["out_score"][i][masked], rtol=1e-9, atol=1e-9)
            found = np.asarray(solvers.transition(score, x_t, t, t - dt, process=process, solver="tweedie"))
            np.testing.assert_allclose(found[masked], case["out_analytic_probs"][i][masked], rtol=1e-9, atol=1e-9)
            ancestral = case["out_ancestral_unnormalized"][i][masked]
            np.testing.assert_allclose(found[masked], ancestral / ancestral.sum(-1, keepdims=True), rtol=1e-9, atol=1e-9)


class DuoCosine:
    """The cosine schedule as Duo has it, squeezed by eps: alpha = 1 - cos(pi/2 (1 - (1 - eps) t))."""

    def alpha(self, t):
        return 1 - jnp.cos(jnp.pi / 2 * (1 - (1 - 1e-3) * t))

    def inverse(self, alpha):
        return schedules.Cosine().inverse(alpha) / (1 - 1e-3)


@pytest.mark.parametrize("schedule,label", [(schedules.Linear(1e-3), "loglinear"), (DuoCosine(), "cosine")])
@pytest.mark.parametrize("kind", ["uniform", "mask"])
def test_duo_steps_golden(golden, kind, schedule, label):
    """Duo's ancestral posterior, its psi step at every kappa (share = 1 - kappa: ReMDM for the masked process) and its last step."""
    case = golden("duo_steps")
    process = processes.Uniform(11, schedule) if kind == "uniform" else processes.Absorbing(10, schedule)

    def posterior(logits, x_t, t):
        """Duo's uniform-state network predicts a site from the others: Bayes' rule adds what the site says of itself (processes.with_evidence)."""
        if kind == "mask":
            return jax.nn.log_softmax(logits[..., :10], -1)
        return jax.nn.log_softmax(logits + process.log_evidence(x_t, jnp.full(x_t.shape, t)), -1)

    with jax.enable_x64(True):
        x_t = jnp.asarray(case[f"in_xt_{kind}"])
        np.testing.assert_allclose(schedule.alpha(jnp.asarray(case["in_times"])), case[f"out_alpha_{label}"], rtol=1e-9)
        for i, (t, dt) in enumerate(case["in_pairs"]):
            log_p = posterior(jnp.asarray(case["in_logits"][i]), x_t, t)
            plain = one_step(0.5, 0.0)._replace(t=jnp.asarray(t), s=jnp.asarray(t - dt))
            law = lambda step: solvers.stage_law(log_p, (x_t,), (), step, 0, process=process, solver="tweedie", form="score")[0]
            np.testing.assert_allclose(law(plain), case[f"out_{kind}_{label}_posterior"][i], rtol=1e-9, atol=1e-9)
            for kappa, expected in zip(case["in_kappas"], case[f"out_{kind}_{label}_psi"][i]):
                np.testing.assert_allclose(law(plain._replace(remask=jnp.asarray(1 - kappa))), expected, rtol=1e-9, atol=1e-9)
            if kind == "mask":
                masked = np.asarray(x_t == 10)
                np.testing.assert_allclose(np.asarray(law(plain))[masked], case[f"out_mask_{label}_analytic"][i][masked], rtol=1e-9, atol=1e-9)
        t = float(case["in_t_last"])
        last = one_step(0.5, 0.0, last=True)._replace(t=jnp.asarray(t), s=jnp.zeros(()))
        log_p = posterior(jnp.asarray(case["in_logits_last"]), x_t, t)
        found = solvers.stage_law(log_p, (x_t,), (), last, 0, process=process, solver="tweedie", form="score")[0]
        np.testing.assert_allclose(found, case[f"out_{kind}_{label}_last"], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", ["uniform", "mask"])
def test_duo_nelbo_golden(golden, kind):
    """The continuous-time NELBO of each token, log-linear schedule. (With the cosine one the reference's derivative lacks the factor 1 - eps.)"""
    case, schedule = golden("duo_steps"), schedules.Linear(1e-3)
    with jax.enable_x64(True):
        t, x_0, x_t = (jnp.asarray(case[name]) for name in ("in_t_loss", "in_x0", f"in_xt_{kind}"))
        logits = jnp.asarray(case["in_logits_loss"])
        if kind == "mask":
            process = processes.Absorbing(10, schedule)
            used = np.asarray((x_t == 10) & (x_0 < 10))  # the mask itself is no datum
            log_p = jax.nn.log_softmax(logits[..., :10], -1)
            found = process.nelbo(log_p, jnp.minimum(x_0, 9), x_t, t)
        else:
            process, used = processes.Uniform(11, schedule), np.ones(x_0.shape, bool)
            log_p = jax.nn.log_softmax(logits + process.log_evidence(x_t, jnp.broadcast_to(t[:, None], x_t.shape)), -1)
            found = process.nelbo(log_p, x_0, x_t, t)
        np.testing.assert_allclose(np.asarray(found)[used], case[f"out_{kind}_loglinear_nll"][used], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("schedule,label", [(schedules.Linear(1e-3), "loglinear"), (DuoCosine(), "cosine")])
def test_remasking_schedules_golden(golden, schedule, label):
    """Duo's kappas are 1 - share; its last entry belongs to the noise removal step, and its entry before that to our last step, which never remasks.

    The reference's 'max-rescale' is eta * min(eta, sigma_max), where ReMDM's paper has eta * sigma_max; ours is the paper's."""
    case = golden("duo_steps")
    process = processes.Absorbing(10, schedule)
    with jax.enable_x64(True):
        times = jnp.asarray(case["out_timesteps_linear"])
        shares = lambda name, eta=0.0: np.asarray(remasking.shares(times, process, name, eta))[:-1]
        expected = 1 - case[f"out_kappas_{label}"][:, :7]
        for row, found in zip(expected, (shares("none"), shares("all"), shares("share", 0.7), shares("capped", 0.05), shares("capped", 0.1))):
            np.testing.assert_allclose(np.minimum(1, found), row, atol=1e-9)  # the reference cuts shares at 1; its 'constant' is then the capped one
        alpha_t, alpha_s = (np.asarray(schedule.alpha(t))[:-1] for t in (times[:-1], times[1:]))
        np.testing.assert_allclose(np.clip(0.4 * np.minimum(0.4, (1 - alpha_s) / alpha_t) / (1 - alpha_s), 0, 1), expected[5], atol=1e-9)
        np.testing.assert_allclose(shares("rescaled", 0.4), 0.4 * np.minimum(1, (1 - alpha_s) / alpha_t) / (1 - alpha_s), atol=1e-12)


def test_shares_above_one_are_remdm_s_law():
    """ReMDM's posterior (Wang et al. 2025, eq. 5) at every sigma up to sigma_max, where the share is above 1 for a masking process: masks clean sites with
    sigma, reveals masked ones with (alpha_s - (1 - sigma) alpha_t) / (1 - alpha_t)."""
    process, p = processes.Absorbing(3, schedules.Linear(1e-3)), np.array([0.5, 0.3, 0.2])
    with jax.enable_x64(True):
        step = one_step(0.3, 0.2)
        step = step._replace(t=jnp.asarray(0.3), s=jnp.asarray(0.2))
        alpha_t, alpha_s = (float(process.schedule.alpha(t)) for t in (0.3, 0.2))
        most = float(remasking.largest(jnp.asarray([0.3, 0.2]), process)[0])
        assert most == pytest.approx(1 / alpha_t) and most > 1.4
        for share in (0.5, 1.0, 1.2, most):
            sigma = share * (1 - alpha_s)
            law = solvers.stage_law(jnp.log(jnp.broadcast_to(p, (2, 3))), (jnp.asarray([3, 1]),), (), step._replace(remask=share), 0, process=process, solver="tweedie", form="score")[0]
            shown = (alpha_s - (1 - sigma) * alpha_t) / (1 - alpha_t)
            np.testing.assert_allclose(law, [[*(shown * p), 1 - shown], [0, 1 - sigma, 0, sigma]], atol=1e-12)


def test_remasking_loop_rests():
    """ReMDM-loop: falling times, resting where 90 % of the sites are clean, remasking there only."""
    process = processes.Absorbing(10)
    times, shares = remasking.loop(16, process, at=0.9, eta=0.05)
    sampling.check(sampling.plain(times).replace(remasks=shares), process=process, solver="tweedie", form="score")
    resting = np.asarray(shares) > 0
    assert resting.sum() == 8 and resting[4:12].all()
    np.testing.assert_allclose(np.asarray(times)[4:13], 0.1, atol=1e-4)
    for steps, changes in ((16, dict(at=1.5)), (1, {}), (2, dict(first=0.1)), (16, dict(first=0.9, middle=0.1)), (16, dict(at=1 - 1e-6)), (16, dict(middle=-0.2))):
        with pytest.raises(ValueError, match="remasking loop"):
            remasking.loop(steps, process, **{"at": 0.9, **changes})
    with pytest.raises(ValueError, match="remasking schedule"):
        remasking.shares(times, process, "sometimes")
    with pytest.raises(ValueError, match="remasking eta"):
        remasking.shares(times, process, "capped", 2.0)


def test_k_gillespie_golden(golden):
    """The k sites of smallest holding time get symbols: which sites, which symbols, from the recorded draws (the reference pads logarithms by 1e-6)."""
    case, process = golden("jys_steps"), processes.Absorbing(10, schedules.Linear(1e-3))
    with jax.enable_x64(True):
        x_t = jnp.asarray(case["in_xt"])
        masked = x_t == 10
        for i, (t, k) in enumerate(zip(case["in_t"], case["in_dk"])):
            log_score = jnp.asarray(case["in_log_score"][i])
            rate = solvers.reverse_rate(log_score, x_t, t, process)
            np.testing.assert_allclose(rate[..., :10], np.where(masked[..., None], case["out_rate"][i][..., :10], 0.0), rtol=1e-9, atol=1e-12)
            np.testing.assert_allclose(rate.sum(-1), case["out_total_rate"][i], rtol=1e-9)
            holding = -jnp.log(1e-6 + (1 - 1e-6) * case["in_u_time"][i]) / (rate.sum(-1) + 1e-6)
            np.testing.assert_allclose(holding[masked], case["out_holding_time"][i][masked], rtol=1e-9)
            chosen = np.asarray(absorbing.foremost(-holding, masked, jnp.full(len(x_t), k)))
            assert (chosen == (case["out_new_xt"][i] != case["in_xt"])).all()
            for row in range(len(x_t)):
                sites = [site for site in np.argsort(holding[row]) if masked[row, site]][:k]
                np.testing.assert_allclose(jax.nn.softmax(log_score[row, sites, :10], -1), case[f"out_token_probs_{i}"][row], rtol=1e-9)


def test_corrector_keeps_the_marginal():
    """Two sites corrected at once from their exact law: what sites change together is all that moves it, so the drift falls as the square of the duration."""
    q_0 = np.random.default_rng(0).dirichlet(np.ones(9)).reshape(3, 3)
    for process in (processes.Absorbing(3, schedules.Linear(1e-3)), processes.Uniform(3, schedules.Linear(1e-3))):
        with jax.enable_x64(True):
            posterior, p_t = joint_posterior(process, q_0, 0.6)
            x = jnp.stack(jnp.meshgrid(jnp.arange(process.states), jnp.arange(process.states), indexing="ij"), -1)
            log_score = process.log_score(jnp.log(jnp.maximum(jnp.asarray(posterior), 1e-300)), x, 0.6)

            def drift(duration):
                each = np.asarray(solvers.corrector(log_score, x, 0.6, duration, process=process))
                return np.abs(np.einsum("xy,xya,xyb->ab", p_t, each[:, :, 0], each[:, :, 1]) - p_t).sum()

            assert np.log2(drift(0.02) / drift(0.01)) == pytest.approx(2, abs=0.05) and 0 < drift(0.01) < 1e-3


def test_predictor_corrector_golden(golden):
    """The Euler predictor, and the corrector with forward and reverse rates (the reference's own corrector takes a row for a column and never masks)."""
    case, process = golden("jys_steps"), processes.Absorbing(10, schedules.Linear(1e-3))
    with jax.enable_x64(True):
        x_t = jnp.asarray(case["in_xt"])
        masked = np.asarray(x_t == 10)
        for i, (t, dt) in enumerate(zip(case["in_t"], case["in_dt"])):
            log_score = jnp.asarray(case["in_log_score"][i])
            found = np.asarray(solvers.transition(log_score, x_t, t, t - dt, process=process, solver="euler", clip=False))
            np.testing.assert_allclose(found[masked], case["out_pc_predictor_probs"][i][masked], rtol=1e-9, atol=1e-12)
            corrected = np.asarray(solvers.corrector(log_score, x_t, t, float(case["in_corrector_multiplier"]) * dt, process=process, clip=False))
            np.testing.assert_allclose(corrected, case["out_corrector_probs_textbook"][i], rtol=1e-9, atol=1e-9)
