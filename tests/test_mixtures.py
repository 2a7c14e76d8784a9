"""Mixture denoisers: what a sampler draws from one is the law of the mixture; visiting latents one by one or together is the same; training reaches it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jddd import grids, laws, processes, sampling, schedules, train
from jddd.distill import di4c, mixtures, sdtt, segments
from jddd.models import dit, exact
from jddd.types import Denoiser

V = 3
HALF = jnp.asarray(0.5)
MASKED, UNIFORM = processes.Absorbing(V, schedules.Linear(1e-4)), processes.Uniform(V, schedules.Linear(1e-3))


def one_symbol(params, x_t, t, latent):
    """The mixture of all-equal data: latents in the k-th third say symbol k at every masked site; a clean site decides for all."""
    seen = jax.nn.one_hot(x_t, V).sum(1)
    symbol = jnp.where(seen.sum(-1) > 0, seen.argmax(-1), jnp.floor(latent * V).astype(int))
    return jnp.broadcast_to(jnp.log(1e-6 + jax.nn.one_hot(symbol, V))[:, None], (*x_t.shape, V))


EQUAL = Denoiser(one_symbol, lambda params, hidden: jax.nn.log_softmax(hidden, -1), mixture=True)


@functools.cache
def network(latent=True):
    """A DiT with random weights: (denoiser, params)."""
    config = dit.DiTConfig(states=V + 1, symbols=V, width=8, depth=1, heads=2, latent=latent)
    shapes = jax.eval_shape(lambda key: dit.init(key, config, 4), jax.random.key(0))
    generator = np.random.default_rng(0)
    return dit.denoiser(config), jax.tree.map(lambda s: jnp.asarray(generator.normal(0.0, 0.5, s.shape), s.dtype), shapes)


@pytest.mark.parametrize("sites", [2, 4])
@pytest.mark.parametrize("steps", [1, 2])
def test_a_mixture_of_as_many_products_solves_all_equal_data(steps, sites):
    """TV 0 in one step, and in two, where a product has 1 - V^(1 - D) in one (Hayakawa et al. 2025); 63 latents are 21 to a symbol. float32 laws."""
    law = laws.data_law(laws.sampler(sampling.plain(grids.uniform(steps)), (), sites, denoiser=EQUAL, process=MASKED, latents=63), sites, MASKED)
    equal = np.zeros((V,) * sites)
    equal[(np.arange(V),) * sites] = 1 / V
    assert laws.total_variation(law, jnp.asarray(equal).ravel()) < 1e-4
    drawn = sampling.sampler(EQUAL, MASKED, (3000, sites))(jax.random.key(0), (), sampling.plain(grids.uniform(steps)))
    assert (drawn == drawn[:, :1]).mean() > 0.999
    np.testing.assert_allclose(np.bincount(drawn[:, 0], minlength=V) / 3000, 1 / V, atol=5 * 0.5 / np.sqrt(3000))  # 5 standard errors


@pytest.mark.parametrize("process,solver", [(MASKED, "tweedie"), (MASKED, "theta_trapezoidal"), (UNIFORM, "tweedie"), (UNIFORM, "predictor_corrector")], ids=str)
def test_samplers_draw_a_latent_a_sample_and_step(process, solver):
    """A network with random weights, two sites, three steps (one latent for both calls of a step): frequencies against the law with the mean over 128
    latents in each step; 5 standard errors of 40,000 samples, and 1e-3 for the latents between."""
    denoiser, params = network()
    student = sampling.plain(jnp.asarray([0.95, 0.6, 0.3, 0.0]))
    options = dict(solver=solver)
    given = jnp.full((40_000, 2), process.states - 1)
    start = jnp.zeros(process.states**2).at[-1].set(1.0)
    law = laws.data_law(laws.sampler(student, params, 2, denoiser=denoiser, process=process, latents=128, start=start, **options), 2, process)
    drawn = sampling.sampler(denoiser, process, given.shape, **options)(jax.random.key(1), params, student, given)
    found = np.bincount(np.asarray(drawn) @ [V, 1], minlength=V**2) / len(drawn)
    np.testing.assert_allclose(found, law, atol=1e-3 + 5 * np.sqrt(0.25 / len(drawn)))


def test_a_coupled_run_draws_fresh_latents():
    """Steps that share their noise do not share the latent: after half of the sites, the other half of a sampler that looks at nothing else is independent."""
    blind = Denoiser(lambda params, x_t, t, latent: jnp.broadcast_to(jnp.log(1e-6 + jax.nn.one_hot(jnp.floor(latent * V).astype(int), V))[:, None], (*x_t.shape, V)), EQUAL.head, True)
    _, states = sampling.sampler(blind, MASKED, (4000, 2), reveal="coupled", trajectory=True)(jax.random.key(0), (), sampling.plain(grids.uniform(2)))
    apart = (states[0] == V).sum(-1) == 1  # one site in each step
    same = (states[1][:, 0] == states[1][:, 1])[apart]
    np.testing.assert_allclose(same.mean(), 1 / V, atol=5 * 0.5 / np.sqrt(len(same)))


def test_marginals():
    """`marginal` is the log mean over the latents' midpoints, through trunk and head apart; a product is its own."""
    denoiser, params = network()
    x = jnp.asarray([[0, V, 2, V], [V, V, 1, 1]])
    each = jnp.stack([denoiser(params, x, HALF, latent) for latent in mixtures.latents_of(5, 2)])
    np.testing.assert_allclose(mixtures.marginal(denoiser, 5)(params, x, HALF), jax.nn.logsumexp(each, 0) - np.log(5), rtol=1e-5, atol=1e-6)
    assert mixtures.marginal(network(False)[0]) is network(False)[0]
    wrapped = mixtures.marginal(processes.with_evidence(UNIFORM, denoiser), 5)
    each = jnp.stack([denoiser(params, x % V, HALF, latent) for latent in mixtures.latents_of(5, 2)])
    evidence = jax.nn.log_softmax(each + UNIFORM.log_evidence(x % V, jnp.full(x.shape, 0.5)), -1)
    np.testing.assert_allclose(wrapped(params, x % V, HALF), jax.nn.logsumexp(evidence, 0) - np.log(5), rtol=1e-5, atol=1e-6)


def test_distinct_latents():
    """quantised(K) has K values; hybrid is the first network above its time and the last at and below it, sample for sample."""
    denoiser, params = network()
    x, t = jnp.full((64, 4), V), jnp.ones(())
    values = np.asarray(mixtures.quantised(denoiser, 3)(params, x, t, jax.random.uniform(jax.random.key(0), (64,))))
    assert len(np.unique(values.reshape(64, -1), axis=0)) == 3
    plain, own = network(False)
    joined = mixtures.hybrid(denoiser, plain)
    student, key = sampling.plain(grids.uniform(4)), jax.random.key(0)
    run = lambda denoiser, params: sampling.sampler(denoiser, MASKED, (64, 4))(key, params, student)
    np.testing.assert_array_equal(run(joined, (params, own, jnp.asarray(-1.0))), run(denoiser, params))
    np.testing.assert_array_equal(run(joined, (params, own, jnp.asarray(2.0))), run(plain, own))
    both = run(joined, (params, own, jnp.asarray(0.6)))
    assert (both != run(denoiser, params)).any() and (both != run(plain, own)).any()


@pytest.mark.parametrize("process", [MASKED, UNIFORM], ids=["absorbing", "uniform"])
def test_bridge(process):
    """Draws of q(x_s | x_t, x_0) against Bayes' rule by enumeration, one time a row; 5 standard errors of 20,000."""
    n, t, s = 20_000, 0.7, 0.3
    for x_0, x_t in [(0, 0), (0, process.states - 1)]:
        at = lambda symbol: jnp.full((n, 1), symbol)
        drawn = process.bridge(jax.random.key(2), at(x_0), at(x_t), jnp.full(n, t), jnp.full(n, s))
        expected = np.exp(segments.log_bridge(jnp.asarray([x_0]), jnp.asarray([x_t]), t, s, process))[0]
        np.testing.assert_allclose(np.bincount(np.asarray(drawn)[:, 0], minlength=process.states) / n, expected, atol=5 * 0.5 / np.sqrt(n))


def test_long_steps_of_a_mixture_cost_less():
    """All-equal data, D = 4: revealing all at once costs log V in all for the mixture that knows (so nothing beyond the entropy, whatever the grid), and
    D log V for its marginals."""
    x_0 = jnp.repeat(jax.random.randint(jax.random.key(0), (256, 1), 0, V), 4, 1)
    measure = lambda denoiser, **more: segments.measure_reveals(jax.random.key(1), (), x_0, denoiser=denoiser, process=MASKED, reveal="independent", points=9, **more)
    cost = lambda table, steps: float(segments.path_cost(sampling.plain(grids.uniform(steps)), table))
    joint, product = measure(EQUAL, latents=30), measure(mixtures.marginal(EQUAL, 30))
    for steps in (1, 2, 4):
        np.testing.assert_allclose(cost(joint, steps), np.log(V) / 4, rtol=1e-3)
    np.testing.assert_allclose(cost(product, 1), np.log(V), rtol=1e-3)
    assert cost(product, 1) > cost(product, 2) > cost(product, 4) > cost(joint, 4)


@pytest.mark.parametrize("reveal", ["independent", "spread"])
def test_the_price_bounds_the_samplers_distance(reveal):
    """D * cost - H(data) is at least KL(data || samples' law), by enumeration, for a mixture with random weights and a random law of two sites: the chain rule
    and Jensen over latents; it is not far above (the states in between are summed over)."""
    denoiser, params = network()
    law = exact.Joint(jax.nn.log_softmax(jax.random.normal(jax.random.key(5), (V**2,))).reshape(V, V))
    x_0 = law.sample(jax.random.key(6), 4096)
    table = segments.measure_reveals(jax.random.key(7), params, x_0, denoiser=denoiser, process=MASKED, reveal=reveal, points=9, latents=32)
    p = np.exp(law.log_p).ravel()
    entropy = float(-(p * np.log(p)).sum())
    student = sampling.plain(grids.uniform(2))
    excess = 2 * float(segments.path_cost(student, table)) - entropy
    if reveal == "independent":
        drawn = laws.data_law(laws.sampler(student, params, 2, denoiser=denoiser, process=MASKED, latents=512), 2, MASKED)
    else:
        samples = np.asarray(sampling.sampler(denoiser, MASKED, (40_000, 2), reveal="spread")(jax.random.key(8), params, student))
        drawn = jnp.asarray(np.bincount(samples @ [V, 1], minlength=V**2) / 40_000)
    distance = float(laws.kl(jnp.asarray(p), drawn))
    assert distance - 0.05 < excess < distance + 0.5  # 0.05: 4,096 windows of data estimate the cost


# ------------------------------------------------------------------------------------------------------------------------------------------ training
@pytest.mark.parametrize("near_share", [0.0, pytest.param(1.0, marks=pytest.mark.slow)])
@pytest.mark.parametrize("process", [MASKED, pytest.param(UNIFORM, marks=pytest.mark.slow)], ids=["absorbing", "uniform"])
def test_together_is_one_by_one(process, near_share):
    """The same key gives the same loss, parts and gradient whether latents are visited together or one by one, of a teacher that is itself a mixture."""
    denoiser, params = network()
    if process is UNIFORM:
        denoiser = processes.with_evidence(process, denoiser)
    found = []
    for together in (True, False):
        config = di4c.Di4CConfig(latents=3, teacher_latents=2, near=0.2, near_share=near_share, start_share=0.3, gap_high=0.1, together=together)
        loss = jax.value_and_grad(di4c.task(denoiser, denoiser, process, config).loss, has_aux=True)
        found.append(jax.jit(loss)(params, jax.random.key(3), jnp.asarray([[0, 1, 2, 2], [1, 1, 0, 2]]), jax.tree.map(lambda x: 0.9 * x, params)))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=2e-4, atol=1e-5), *found)  # float32, sums in another order
    zone = found[0][0][1]
    assert (zone["distillation"] == 0) == (near_share == 0) and (zone["consistency"] == 0) == (near_share == 1)


PAIRS = jnp.asarray([[a, a, b, b] for a in (0, 1) for b in (0, 1)])


def test_latents_that_serve_steps_serve_two_pairs_again():
    """Two independent pairs of equal sites (2 bits) and latents that say one symbol for all four: over whole rows they are worth less than over a step that
    reveals one pair, where they are all that can be had: 1 bit. Enumerated: the mixture's -log p of what is counted, mean over data."""
    tied = jnp.log(1e-6 + jax.nn.one_hot(jnp.broadcast_to(jnp.arange(2)[None, :, None], (4, 2, 4)), 2))  # (rows, latents, sites, symbols)
    masks = jnp.full((4, 4), 2)
    process = processes.Absorbing(2)

    def cost(counted):
        known = jax.vmap(lambda log_p: mixtures.with_known(log_p, masks, process, jnp.broadcast_to(jnp.asarray(counted), (4, 4))), 1, 1)(tied)
        return float(di4c.datapoint(mixtures.mixture(known, PAIRS[:, None]), control_variate=False).mean())

    np.testing.assert_allclose(cost([True, True, False, False]), np.log(2), atol=1e-4)  # 1e-6 was added to each probability
    assert cost([True] * 4) > 4 * np.log(2)  # half of the rows are impossible: more than a product of fair coins, 4 log 2


@pytest.mark.parametrize("reveal", ["independent", "spread"])
def test_a_step_reveals_what_the_sampler_would(reveal):
    """Masked with probability 1 - alpha(t), and of these revealed with (alpha(s) - alpha(t)) / (1 - alpha(t)), whichever the order; a step of length t, all.
    5 standard errors of 40,000 sites (spread sites of one row are not independent, and then the error is smaller). Neighbours are revealed together with
    probability 1/16 where sites are independent, and hardly ever where they are spread."""
    x_0, length = jnp.zeros((400, 100), jnp.int32), jnp.asarray(0.25)
    x_t, counted = di4c.step_of(jax.random.key(0), x_0, jnp.full(400, 0.75), length, MASKED, reveal)
    masked = MASKED.noised(x_t)
    assert not (counted & ~masked).any()
    np.testing.assert_allclose([masked.mean(), counted.mean()], [0.75, 0.25], atol=5 * 0.5 / 200 + 1e-4)  # 1e-4: the schedule's eps
    together = float((counted[:, 1:] & counted[:, :-1]).mean())
    assert abs(together - 1 / 16) < 5 * 0.25 / 200 if reveal == "independent" else together < 0.01
    x_t, counted = di4c.step_of(jax.random.key(0), x_0, jnp.asarray(0.75), 1.0, MASKED, reveal)
    np.testing.assert_array_equal(counted, MASKED.noised(x_t))


def test_without_consistency_the_other_parts_stay():
    """consistency = 0 leaves the datapoint and the marginal loss as they are; with steps all parts are there and finite."""
    denoiser, params = network()
    found = {}
    for name, options in {"paper": {}, "step": dict(step_low=1.0, step_high=1.0), "short": dict(step_low=0.25, step_high=0.25), "data": dict(consistency=0.0)}.items():
        config = di4c.Di4CConfig(latents=3, near_share=0.0, target="teacher", **options)
        task = di4c.task(denoiser._replace(features=lambda p, x, t: denoiser.features(p, x, t, jnp.full(len(x), 0.5)), mixture=False), denoiser, MASKED, config)
        found[name] = jax.jit(task.loss)(params, jax.random.key(3), jnp.asarray([[0, 1, 2, 2], [1, 1, 0, 2]]), params)[1]
    assert found["data"]["consistency"] == 0 and found["paper"]["consistency"] != 0
    for name in ("datapoint", "marginal"):
        np.testing.assert_allclose(found["data"][name], found["paper"][name], rtol=1e-5)  # the same sums, compiled apart
    assert all(np.isfinite(value) for value in found["step"].values()) and found["step"]["marginal"] > found["short"]["marginal"] > 0  # a short step counts some of the sites


def test_latents_are_uniform():
    """Stratified or not, each latent is in [0, 1); stratified ones have one in each part for every row."""
    free, strata = (np.asarray(di4c.draw_latents(jax.random.key(0), 8, 500, stratified)) for stratified in (False, True))
    assert free.min() >= 0 and free.max() < 1 and abs(free.mean() - 0.5) < 5 * 0.29 / np.sqrt(4000)
    np.testing.assert_array_equal(np.floor(strata * 8), np.broadcast_to(np.arange(8)[:, None], (8, 500)))


def test_training_learns_correlations():
    """All-equal data of two sites and two symbols: the product's one step has TV 1/2; some hundred steps of Di4C by the exact denoiser bring the student's
    below 0.15, and gain, which is 0 for a product, near log 2."""
    from jddd.di4c_laboratory import fresh_student, one_step

    process, law = processes.Absorbing(2, schedules.Linear(1e-4)), exact.all_equal(2, 2)
    config = dit.DiTConfig(states=3, symbols=2, width=16, depth=1, heads=2, latent=True)
    student, exact_denoiser = dit.denoiser(config), exact.denoiser(process)
    settings = di4c.Di4CConfig(latents=8, stratified=True, near=0.05, near_share=0.1, start_share=0.5, gap_low=0.05, gap_high=0.1, shape="constant", scale=0.5)
    x_0 = law.sample(jax.random.key(0), 4096)
    batch = lambda step: x_0[(jnp.arange(32) + 32 * step) % 4096]
    options = dict(steps=300, frozen=law, ema=0.98, progress=False)
    state = train.fit(jax.random.key(1), di4c.task(exact_denoiser, student, process, settings), optax.adam(3e-3), batch, initial=fresh_student(jax.random.key(2), config, 2), **options)
    found = laws.data_law(one_step(state.ema, jnp.full((1, 2), process.mask_id), 1.0, student=student, process=process, latents=2048)[0], 2, process)
    assert laws.total_variation(found, jnp.exp(law.log_p).ravel()) < 0.15
    gains = di4c.gain(jax.random.key(3), state.ema, x_0[:64], jnp.ones(64), student=student, process=process)
    assert 0.5 * np.log(2) < gains.mean() < 1.1 * np.log(2)
    product = Denoiser(lambda params, x, t, latent: exact_denoiser.features(params, x, t), exact_denoiser.head, True)
    np.testing.assert_allclose(di4c.gain(jax.random.key(3), law, x_0[:8], jnp.ones(8), student=product, process=process), 0, atol=1e-5)


def test_theorem_holds_for_any_student():
    """TV <= bound for a network with random weights, two sites, four steps of the exact teacher."""
    from jddd import di4c_laboratory as lab

    process, law = processes.Absorbing(V, lab.NEARLY), exact.all_equal(V, 2, 1e-3)
    chain = lab.teacher_chain(law, 4, process=process, length=2)
    np.testing.assert_allclose(chain.laws.sum(-1), 1, rtol=1e-5)
    sides = lab.theorem(network()[1], chain, student=network()[0], process=process, length=2, latents=32)
    assert 0.05 < sides["distance"] <= sides["bound"]


# -------------------------------------------------------------------------------------------------------------------------------------- bad settings
def test_bad_settings_are_refused_by_name():
    """Shares outside [0, 1], gaps the wrong way round, an unknown shape, a product as a student, and SDTT of what it is not for."""
    for field, value in (("near", -0.1), ("near_share", 1.5), ("start_share", 2.0), ("gap_low", 0.0), ("gap_high", 1e-5), ("shape", "cosine"), ("latents", 0), ("near", 0.0), ("target", "mean"), ("scale", 2.0), ("boost", -3.0), ("step_high", 0.1), ("reveal", "spread"), ("consistency", 2.0)):
        with pytest.raises(ValueError, match=f"distill.{field}"):
            di4c.Di4CConfig(**{field: value})
    with pytest.raises(ValueError, match="distill.step_low"):
        di4c.task(network()[0], network()[0], UNIFORM, di4c.Di4CConfig(step_low=0.1, step_high=0.2))
    with pytest.raises(ValueError, match="model.latent"):
        di4c.task(network()[0], network(False)[0], MASKED, di4c.Di4CConfig())
    for process, denoiser in ((UNIFORM, network(False)[0]), (MASKED, network()[0])):
        with pytest.raises(ValueError, match="SDTT"):
            sdtt.task(denoiser, denoiser, process, sdtt.SDTTConfig())
    for field, value in (("step", 0.0), ("step", 0.9), ("divergence", "js"), ("times", "odd")):
        with pytest.raises(ValueError, match=f"distill.{field}"):
            sdtt.SDTTConfig(**{field: value})
