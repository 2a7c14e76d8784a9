"""Di4C's losses: the authors' numbers and gradients (float64, 1e-9), the scan over latents against the direct computation, and what the losses mean on
data where everything can be enumerated.

tests/fixtures/di4c_loss_*.npz: losses, draws and gradients of the released code (sony/di4c) with stand-in networks, for pixels, text and MaskGIT.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jddd import laws, processes, schedules
from jddd.distill import di4c, mixtures

CLOSE = dict(rtol=1e-9, atol=1e-12)
WAYS = ("direct", "scan")


def as_mixture(way, logits, points, known=lambda log_p: log_p):
    """The mixture of logits (B, M, D, S): from the whole array, or from one latent after another, with the logits as the network's parameters."""
    if way == "direct":
        return mixtures.mixture(jax.vmap(known, 1, 1)(jax.nn.log_softmax(logits, -1)), points)
    return mixtures.over_latents(logits, (), jnp.arange(logits.shape[1]), points, apply=lambda logits, _, j: known(jax.nn.log_softmax(logits[:, j], -1)))


# ---------------------------------------------------------------------------------------------------------------------------- golden numbers
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("tag", ["cv", "nocv"])
def test_pixels_golden(golden, tag, way):
    """CIFAR-10's loss: every part, the total of every time schedule, and the gradients at t, at the distillation's own state and at u."""
    case, control = golden("di4c_loss_tauldr"), tag == "cv"
    schedule = {"none": di4c.Weights("constant"), "zero": di4c.Weights("constant", 0.0), "sigmoid": di4c.CIFAR10, "linear": di4c.Weights("linear")}
    with jax.enable_x64(True):
        get = lambda name: jnp.asarray(case[name])
        log_teacher, log_mint = (jax.nn.log_softmax(get(f"teacher_logits_{name}"), -1) for name in ("t", "mint"))
        points = jnp.concatenate([get("x0")[:, None], get("x_0")], 1)

        def parts(logits):
            student = as_mixture(way, logits["t"], points)
            log_target = as_mixture(way, logits["u"], points).log_mean
            own = di4c.kl(log_mint, jax.nn.log_softmax(logits["mint"], -1)).mean(1)
            return di4c.terms(student, log_teacher, log_target, control_variate=control)._replace(distillation=own), student, log_target

        logits = {name: get(f"student_logits_{name}") for name in ("t", "mint", "u")}
        found, student, log_target = parts(logits)
        np.testing.assert_allclose(student.log_mean, case["log_p0t_student_mix"], **CLOSE)
        np.testing.assert_allclose(student.mean_log, case["log_p0t_student_lam"].mean(1), **CLOSE)
        np.testing.assert_allclose(student.log_points[:, 0], case["data_loglik"].swapaxes(1, 2), **CLOSE)
        np.testing.assert_allclose(log_target, case["log_p0u_student_mix"], **CLOSE)
        np.testing.assert_allclose(found.distillation, case[f"{tag}_distil_loss"], **CLOSE)
        np.testing.assert_allclose(found.datapoint, case[f"{tag}_data_loss_cor"], **CLOSE)
        np.testing.assert_allclose(found.marginal, case[f"{tag}_data_loss_indep"], **CLOSE)
        np.testing.assert_allclose(found.consistency, case[f"{tag}_consis_loss_cor"] + case[f"{tag}_consis_loss_indep"], **CLOSE)
        correlated = di4c.datapoint(student.at(slice(1, None)), control_variate=control).mean(1)
        np.testing.assert_allclose(correlated, case[f"{tag}_consis_loss_cor"], **CLOSE)
        for i, (name, weights) in enumerate(schedule.items()):
            np.testing.assert_allclose(weights.alpha(get("ts")), case["time_coeff"][i], **CLOSE)
            data = weights.alpha(get("ts")) * found.datapoint + found.marginal
            np.testing.assert_allclose(data, case[f"{tag}_data_loss"][i], **CLOSE)
            np.testing.assert_allclose([x.mean() for x in (data, found.distillation, found.consistency, correlated)], case[f"{tag}_eval_means"][i], **CLOSE)
            loss = lambda logits: di4c.total(parts(logits)[0], get("ts"), weights=weights).mean()
            np.testing.assert_allclose(loss(logits), case[f"{tag}_total"][i], **CLOSE)
            if name in ("none", "sigmoid"):
                for at, gradient in jax.grad(loss)(logits).items():
                    np.testing.assert_allclose(gradient, case[f"{tag}_grad_{name}_student_{at}"], **CLOSE)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("teacher", ["plain", "di4c"])
@pytest.mark.parametrize("zone", ["lo", "hi"])
def test_text_golden(golden, zone, teacher, way):
    """OpenWebText's loss in both zones, with a plain teacher and one that is a mixture. Our symbols leave the mask out, and what the reference does with
    -1e6 `with_known` does with processes.NEVER."""
    case, process = golden("di4c_loss_sdtt"), processes.Absorbing(12, schedules.Linear(1e-3))
    schedule = (di4c.Weights("constant", 0.1, near=0.3), di4c.Weights(scale=0.1, near=0.3), di4c.Weights("linear", 0.1, near=0.3))
    with jax.enable_x64(True):
        get = lambda name: jnp.asarray(case[f"{zone}_{teacher}_{name}"])
        x_0, x_t, t = jnp.asarray(case["x0"]), get("xt"), get("t")
        points = x_0[:, None]
        if zone == "hi":
            points = jnp.concatenate([points, get("x_0")[None]], 1)
        known = lambda log_p: mixtures.with_known(log_p, x_t, process)
        symbols = lambda logits: logits[None, ..., :12]
        log_teacher = as_mixture(way, symbols(get("teacher_logits_t")), points, known).log_mean
        np.testing.assert_allclose(np.exp(log_teacher[0]), case[f"{zone}_{teacher}_p0t_teacher"][0, :, :12], **CLOSE)
        log_target = None
        if zone == "hi":
            apply = lambda logits, _, each: mixtures.with_known(jax.nn.log_softmax(logits[:, each[0]], -1), each[1], process)
            log_target = mixtures.log_mean_over_latents(symbols(get("student_logits_s")), (), (jnp.arange(4), get("xs")[:, None]), apply=apply)
            np.testing.assert_allclose(np.exp(log_target[0]), np.exp(case[f"{zone}_{teacher}_log_p0u_student_mix"][:, :12]), **CLOSE)

        def parts(logits):
            student = as_mixture(way, symbols(logits), points, known)
            found = di4c.terms(student, log_teacher, log_target)
            return student, found if zone == "lo" else found._replace(distillation=None)

        logits = get("student_logits_t")
        student, found = parts(logits)
        np.testing.assert_allclose(np.exp(student.log_mean[0]), np.exp(get("log_p0t_student_mix"))[:, :12], **CLOSE)
        np.testing.assert_allclose(found.datapoint, get("data_loss_cor"), **CLOSE)
        np.testing.assert_allclose(found.marginal, get("data_loss_indep"), **CLOSE)
        if zone == "lo":
            np.testing.assert_allclose(found.distillation, get("distil_loss"), **CLOSE)
        else:
            np.testing.assert_allclose(di4c.datapoint(student.at(slice(1, None))).mean(1), get("consis_loss_cor"), **CLOSE)
            np.testing.assert_allclose(found.consistency, get("consis_loss_cor") + get("consis_loss_indep"), **CLOSE)
        for i, weights in enumerate(schedule):
            np.testing.assert_allclose(weights.alpha(t)[0], get("time_coeff")[i], **CLOSE)
            loss = lambda logits: di4c.total(parts(logits)[1], t, weights=weights).mean()
            np.testing.assert_allclose(weights.alpha(t) * found.datapoint + found.marginal, get("data_loss")[i], **CLOSE)
            np.testing.assert_allclose(loss(logits), get("total")[i], **CLOSE)
            np.testing.assert_allclose(jax.grad(loss)(logits), get("grad_student_t")[i], **CLOSE)


@pytest.mark.parametrize("way", WAYS)
def test_maskgit_golden(golden, way):
    """ImageNet's loss, rows of both zones in one batch; here the mask is a symbol like the others and clean sites count."""
    case = golden("di4c_loss_maskgit")
    schedule = [di4c.Weights(shape, 0.1, near=0.3, boost=1 / 0.3) for shape in ("constant", "sigmoid", "linear")]
    with jax.enable_x64(True):
        get = lambda name: jnp.asarray(case[name])
        t = 1 - get("r")
        points = jnp.concatenate([get("code").reshape(4, 1, 9), get("x_0")], 1)
        log_teacher = jax.nn.log_softmax(get("teacher_logits"), -1)
        log_target = as_mixture(way, get("student_logits_s"), points).log_mean
        np.testing.assert_allclose(log_target, case["log_p0u_student_mix"], **CLOSE)
        parts = lambda logits: di4c.terms(as_mixture(way, logits, points), log_teacher, log_target)
        logits = get("student_logits_t")
        found, near = parts(logits), case["r_weight"]
        assert 0 < near.sum() < 4  # both zones
        np.testing.assert_array_equal(t < 0.3, near == 1)
        np.testing.assert_allclose(found.distillation * near / 0.3, case["distil_loss_weighted"], **CLOSE)
        np.testing.assert_allclose(found.consistency, case["consis_loss_cor"] + case["consis_loss_indep"], **CLOSE)
        np.testing.assert_allclose(found.consistency * (1 - near), case["consis_loss_weighted"], **CLOSE)
        np.testing.assert_allclose(found.datapoint, case["data_loss_cor"], **CLOSE)
        np.testing.assert_allclose(found.marginal, case["data_loss_indep"], **CLOSE)
        for i, weights in enumerate(schedule):
            np.testing.assert_allclose(weights.alpha(t), case["time_coeff"][i], **CLOSE)
            np.testing.assert_allclose(weights.alpha(t) * found.datapoint + found.marginal, case["data_loss"][i], **CLOSE)
            loss = lambda logits: di4c.total(parts(logits), t, weights=weights).mean()
            np.testing.assert_allclose(loss(logits), case["total"][i], **CLOSE)
            np.testing.assert_allclose(jax.grad(loss)(logits), case["grad_student_t"][i], **CLOSE)


# ------------------------------------------------------------------------------------------------------------------------ one latent at a time
def network(params, x_t, latent):
    """A little network with a latent: log p (B, D, S) of states (B, D) and latents (B,)."""
    hidden = jnp.tanh(params["embed"][x_t] + x_t.mean(1)[:, None, None] * params["pool"] + latent[:, None, None] * params["latent"])
    return jax.nn.log_softmax(hidden @ params["out"], -1)


def little(key, states, width=4):
    draw = lambda i, *shape: jax.random.normal(jax.random.fold_in(key, i), shape)
    return dict(embed=draw(0, states, width), pool=draw(1, width), latent=draw(2, width), out=draw(3, width, states))


def test_scan_is_the_direct_computation(key):
    """Values of every field and gradients of a function of all of them, with respect to a network's weights, under jit with traced states."""
    with jax.enable_x64(True):
        params, (b, m, d, s, n) = little(key, 7), (3, 5, 4, 7, 2)
        x_t, points = (jax.random.randint(jax.random.fold_in(key, 10 + i), shape, 0, s) for i, shape in enumerate([(b, d), (b, n, d)]))
        latents = jax.random.uniform(jax.random.fold_in(key, 12), (m, b))
        log_teacher = jax.nn.log_softmax(jax.random.normal(jax.random.fold_in(key, 13), (b, d, s)), -1)

        def direct(params, x_t, latents, points):
            return mixtures.mixture(jnp.stack([network(params, x_t, latent) for latent in latents], 1), points)

        scan = lambda params, x_t, latents, points: mixtures.over_latents(params, x_t, latents, points, apply=network)
        for one, other in zip(direct(params, x_t, latents, points), jax.jit(scan)(params, x_t, latents, points)):
            np.testing.assert_allclose(one, other, **CLOSE)
        np.testing.assert_allclose(mixtures.log_mean_over_latents(params, x_t, latents, apply=network), scan(params, x_t, latents, points).log_mean, **CLOSE)
        each = jnp.stack([network(params, x_t, latent) for latent in latents], 1)
        np.testing.assert_allclose(di4c.kl(jnp.broadcast_to(log_teacher[:, None], each.shape), each).mean(1), di4c.distillation(log_teacher, scan(params, x_t, latents, points)), **CLOSE)

        def loss(how, params, *rest):
            found = how(params, *rest)
            parts = di4c.terms(found, log_teacher, log_teacher[..., ::-1])
            return sum(part.sum() for part in parts) + jnp.sin(found.log_mean).sum() + (found.mean_log**2).sum()

        gradients = [jax.jit(jax.grad(functools.partial(loss, how)))(params, x_t, latents, points) for how in (direct, scan)]
        jax.tree.map(functools.partial(np.testing.assert_allclose, **CLOSE), *gradients)
        assert all(np.abs(leaf).max() > 1e-3 for leaf in jax.tree.leaves(gradients[0]))


def test_keys_may_be_latents(key):
    """Dropout: each latent's own key goes with it, and the backward pass drops the same units."""
    params, x_t, points = jnp.ones((2, 3, 5)), jnp.zeros((2, 3), jnp.int32), jnp.zeros((2, 1, 3), jnp.int32)
    latents = (jax.random.split(key, 4), jnp.linspace(0, 1, 4)[:, None] * jnp.ones(2))

    def apply(params, x_t, latent):
        kept = jax.random.bernoulli(latent[0], 0.5, params.shape)
        return jax.nn.log_softmax(jnp.where(kept, params * (1 + latent[1][:, None, None]), 0.0), -1)

    direct = lambda params: mixtures.mixture(jnp.stack([apply(params, x_t, jax.tree.map(lambda a: a[j], latents)) for j in range(4)], 1), points)
    scan = lambda params: mixtures.over_latents(params, x_t, latents, points, apply=apply)
    loss = lambda how, params: di4c.datapoint(how(params)).sum() + how(params).log_mean[..., 0].sum()
    np.testing.assert_allclose(*[jax.grad(functools.partial(loss, how))(params) for how in (direct, scan)], rtol=1e-5, atol=1e-6)


def test_scan_holds_one_latent_at_a_time(key):
    """The temporary memory of loss and gradient does not grow with M, and is a few arrays (B, D, S); the direct computation's is more than M of them."""
    b, d, s = 1, 8, 4000
    params, points, log_teacher = little(key, s), jnp.zeros((b, 1, d), jnp.int32), jnp.full((b, d, s), -np.log(s))
    x_t = jnp.zeros((b, d), jnp.int32)
    scan = lambda params, latents: mixtures.over_latents(params, x_t, latents, points, apply=network)
    direct = lambda params, latents: mixtures.mixture(jax.vmap(network, (None, None, 0), 1)(params, x_t, latents), points)

    def held(how, m):
        """In arrays (B, D, S)."""

        def loss(params, latents):
            parts = di4c.terms(how(params, latents), log_teacher, None)
            return (parts.distillation + parts.datapoint + parts.marginal).sum()

        compiled = jax.jit(jax.grad(loss)).lower(params, jnp.zeros((m, b))).compile()
        return compiled.memory_analysis().temp_size_in_bytes / (4 * b * d * s)

    assert held(direct, 32) > 32
    assert held(scan, 32) < held(scan, 4) + 0.5
    assert held(scan, 32) < 12


def test_targets_over_latents(key):
    """One draw of each product with its frequencies, and the log of their mean."""
    table = jax.nn.log_softmax(jax.random.normal(key, (2, 3)), -1)  # two products of one site
    apply = lambda table, inputs, i: jnp.broadcast_to(table[i], (4000, 1, 3))
    log_target, drawn = mixtures.draw_over_latents(key, table, (), jnp.arange(2), apply=apply)
    np.testing.assert_allclose(np.exp(log_target[0, 0]), np.exp(table).mean(0), rtol=1e-5)
    assert (jax.grad(lambda table: mixtures.draw_over_latents(key, table, (), jnp.arange(2), apply=apply)[0].sum())(table) == 0).all()
    for i in range(2):
        np.testing.assert_allclose(np.bincount(drawn[:, i, 0], minlength=3) / 4000, np.exp(table[i]), atol=5 * 0.5 / np.sqrt(4000))


# ------------------------------------------------------------------------------------------------------------------------------- what they mean
def test_all_equal_data_needs_a_mixture():
    """x_0 is one of three symbols on all of three sites, x_t all masks: with the exact mixture both losses are at their least, which for consistency is
    the entropy of the joint law less those of the marginals; a product pays KL(data || product) = 2 log 3 more, and its marginals are right."""
    sites = symbols = 3
    points = jnp.broadcast_to(jnp.arange(symbols)[:, None], (symbols, sites))[None]  # every draw of the target, each once
    log_teacher = jnp.full((1, sites, symbols), -np.log(symbols))
    exact = jnp.where(jnp.eye(symbols, dtype=bool)[:, None], 0.0, processes.NEVER) + jnp.zeros((symbols, sites, symbols))
    least = np.log(symbols) - sites * np.log(symbols)
    for log_p, excess in ((exact, 0.0), (jnp.broadcast_to(log_teacher, exact.shape), 2 * np.log(3))):
        student = mixtures.mixture(log_p[None], points)
        np.testing.assert_allclose(di4c.marginal(log_teacher, student), 0.0, atol=1e-6)
        np.testing.assert_allclose(di4c.consistency(student, log_teacher) - least, excess, atol=1e-5)
        np.testing.assert_allclose(di4c.consistency(student, log_teacher, control_variate=False) - np.log(symbols), excess, atol=1e-5)
        np.testing.assert_allclose(di4c.datapoint(student).mean() - least, excess, atol=1e-5)
    assert di4c.distillation(log_teacher, mixtures.mixture(exact[None], points))[0] > 100  # a product teacher must not be distilled here


def test_learning_all_equal_data(key):
    """Gradient descent on consistency and marginal losses of a free table of 6 components leads to a one-step sampler with the data's law."""
    sites = symbols = 3
    log_teacher = jnp.full((1, sites, symbols), -np.log(symbols))
    points = jnp.broadcast_to(jnp.arange(symbols)[:, None], (symbols, sites))[None]

    def loss(logits):
        student = mixtures.mixture(jax.nn.log_softmax(logits, -1)[None], points)
        return (di4c.consistency(student, log_teacher) + di4c.marginal(log_teacher, student))[0]

    logits = 0.1 * jax.random.normal(key, (6, sites, symbols))
    logits = jax.lax.fori_loop(0, 2000, lambda i, logits: logits - 2.0 * jax.grad(loss)(logits), logits)
    law = np.mean([laws.product(jnp.exp(row)) for row in jax.nn.log_softmax(logits, -1)], 0)
    data = np.zeros(27)
    data[[0, 13, 26]] = 1 / 3
    assert 0.5 * np.abs(law - data).sum() < 0.01 and loss(logits) < np.log(3) - 3 * np.log(3) + 0.01


def test_control_variate_keeps_the_mean_and_lowers_variance(key):
    """By enumeration of all draws: the two consistency losses differ by the entropies of the target's marginals, have the same mean gradient, and the
    variance of loss and gradient is lower with the control variate. The same for datapoint + marginal with data of the teacher's law."""
    sites, symbols, count = 3, 3, 2
    with jax.enable_x64(True):
        table = lambda i: 0.7 * jax.random.normal(jax.random.fold_in(key, i), (1, 1, sites, symbols)) + 0.4 * jax.random.normal(jax.random.fold_in(key, i + 1), (1, count, sites, symbols))
        logits, target = table(0), jax.nn.log_softmax(table(2), -1)
        log_target = mixtures.mixture(target, jnp.zeros((1, 0, sites), int)).log_mean
        every = np.asarray(list(itertools.product(range(symbols), repeat=sites)))  # draws of one product
        chance = np.asarray([laws.product(jnp.exp(row)) for row in target[0]])
        entropies = -(jnp.exp(log_target) * log_target).sum()

        def moments(loss, chances):
            """(mean and variance of the loss, mean and total variance of its gradient) over outcomes of given chances; loss(outcome index, logits)."""
            values, gradients = jax.jit(jax.vmap(jax.value_and_grad(loss, 1), (0, None)))(jnp.arange(len(chances)), logits)
            values, gradients = np.asarray(values), np.asarray(gradients).reshape(len(values), -1)
            mean, gradient = chances @ values, chances @ gradients
            return mean, chances @ (values - mean) ** 2, gradient, chances @ ((gradients - gradient) ** 2).sum(-1)

        pairs = jnp.asarray(list(itertools.product(range(len(every)), repeat=2)))  # one draw of each product
        both = chance[0][pairs[:, 0]] * chance[1][pairs[:, 1]]
        student = lambda logits, points: mixtures.mixture(jax.nn.log_softmax(logits, -1), points)
        consistency = lambda control: lambda i, logits: di4c.consistency(student(logits, jnp.asarray(every)[pairs[i]][None]), log_target, control_variate=control)[0]
        with_cv, without = moments(consistency(True), both), moments(consistency(False), both)
        np.testing.assert_allclose(with_cv[0], without[0] - entropies, rtol=1e-9)
        np.testing.assert_allclose(with_cv[2], without[2], rtol=1e-9, atol=1e-12)
        assert with_cv[1] < 0.5 * without[1] and with_cv[3] < 0.5 * without[3]

        def data(control):
            def loss(i, logits):
                found = student(logits, jnp.asarray(every)[i][None, None])
                return di4c.datapoint(found, control_variate=control)[0, 0] + (di4c.marginal(log_target, found)[0] if control else 0.0)

            return loss

        with_cv, without = moments(data(True), chance.mean(0)), moments(data(False), chance.mean(0))
        np.testing.assert_allclose(with_cv[0], without[0] - entropies, rtol=1e-9)
        np.testing.assert_allclose(with_cv[2], without[2], rtol=1e-9, atol=1e-12)
        assert with_cv[1] < 0.5 * without[1] and with_cv[3] < 0.5 * without[3]


def test_float32_keeps_small_correlations(key):
    """A loss of 0.1 nats at 1,024 sites of 6 nats each: the control variate is taken site by site. From the two sums the error would be 5e-4."""
    draw = lambda i, *shape: jax.random.normal(jax.random.fold_in(key, i), shape)
    logits = 3 * draw(0, 1, 1, 1024, 64) + 0.02 * draw(1, 1, 4, 1024, 64)
    points = jax.random.randint(jax.random.fold_in(key, 2), (1, 1, 1024), 0, 64)
    loss = jax.jit(lambda logits: di4c.datapoint(mixtures.mixture(jax.nn.log_softmax(logits, -1), points)))
    found = float(loss(logits)[0, 0])
    with jax.enable_x64(True):
        exact = float(loss(jnp.asarray(np.asarray(logits, np.float64)))[0, 0])
    assert abs(exact) > 0.01
    np.testing.assert_allclose(found, exact, atol=1e-4)


def test_known_sites_cost_nothing():
    """Clean sites of a masked process are points with no gradient; the uniform process has none."""
    x_t = jnp.asarray([[3, 1]])
    log_p = jnp.log(jnp.full((1, 2, 3), 1 / 3))
    process = processes.Absorbing(3)
    np.testing.assert_allclose(np.exp(mixtures.with_known(log_p, x_t, process)), [[[1 / 3] * 3, [0, 1, 0]]], rtol=1e-6)
    gradient = jax.grad(lambda log_p: mixtures.with_known(log_p, x_t, process).sum())(log_p)
    assert (np.asarray(gradient)[0, 0] == 1).all() and (np.asarray(gradient)[0, 1] == 0).all()
    np.testing.assert_array_equal(mixtures.with_known(log_p, jnp.asarray([[0, 1]]), processes.Uniform(3)), log_p)


def test_weights():
    """The three settings' alpha_t; zones by t; missing parts; bad names."""
    np.testing.assert_allclose(di4c.CIFAR10.alpha(jnp.asarray([0.5, 1.0])), [0.5, 1 / (1 + np.exp(-10))], rtol=1e-6)
    np.testing.assert_allclose(di4c.IMAGENET.alpha(jnp.asarray(0.5)), 0.05, rtol=1e-6)
    np.testing.assert_allclose(di4c.OPENWEBTEXT.alpha(jnp.asarray(0.5)), 0.05, rtol=1e-6)
    parts, t = di4c.Terms(*jnp.asarray([[1.0, 1.0], [2.0, 2.0], [0.0, 0.0], [4.0, 4.0]])), jnp.asarray([0.03, 0.5])
    np.testing.assert_allclose(di4c.total(parts, t, weights=di4c.CIFAR10), [7, 7])
    np.testing.assert_allclose(di4c.total(parts, t, weights=di4c.IMAGENET), [24, 6], rtol=1e-6)
    np.testing.assert_allclose(di4c.total(parts, t, weights=di4c.OPENWEBTEXT), [6, 6])
    np.testing.assert_allclose(di4c.total(parts._replace(consistency=None), t, weights=di4c.OPENWEBTEXT), [5, 5])
    with pytest.raises(ValueError, match="parts have"):
        di4c.total(parts._replace(distillation=None), t, weights=di4c.CIFAR10)
    with pytest.raises(ValueError, match="distill.shape is 'cosine'"):
        di4c.Weights("cosine")
