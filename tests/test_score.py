"""Score entropy and score networks against SEDD's own numbers and against enumeration (float64: 1e-9; recorded float32 networks: 1e-5)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_processes import GRAPHS, joint_posterior

from jddd import losses, processes, schedules, score
from jddd.types import Denoiser


@pytest.mark.parametrize("name", GRAPHS)
def test_score_entropy_golden(golden, name):
    """Each token's score entropy, and the weighted loss of each row."""
    case, process = golden(name), GRAPHS[name]
    with jax.enable_x64(True):
        t = jnp.asarray(case["in_t_loss"])
        x_0, x_t = jnp.asarray(case["in_x0"]), jnp.asarray(case["in_xt"])
        entropy = processes.score_entropy(jnp.asarray(case["in_log_score_loss"]), x_0, x_t, t[:, None], process)
        np.testing.assert_allclose(entropy, case["out_score_entropy"], rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(schedules.noise_rate(process.schedule, t) * entropy.sum(-1), case["out_loss"], rtol=1e-9)


@pytest.mark.parametrize("name,process", [("sedd_absorb", processes.Absorbing(29, schedules.Linear(1e-3))), ("sedd_uniform", processes.Uniform(27, schedules.Geometric(1e-4, 20.0)))])
def test_sedd_scaling_golden(golden, name, process):
    """From the raw output of SEDD's networks to their log-scores. At clean sites of the absorbing graph no score is used, and none is compared."""
    case = golden(name)
    x_t = jnp.asarray(case["in_indices"], jnp.int32)
    t = process.schedule.inverse(jnp.exp(-jnp.asarray(case["in_sigma"])))
    found = np.asarray(score.log_score(jnp.asarray(case["out_raw"])[..., : process.symbols], x_t, t[:, None], process))
    used = np.asarray(process.noised(x_t))
    assert used.any()
    np.testing.assert_allclose(found[used], case["out_log_score"][used], atol=1e-5)


@pytest.mark.parametrize("process", [processes.Absorbing(3, schedules.Linear(1e-3)), processes.Uniform(3)])
def test_posterior_undoes_the_score(process):
    """p -> score -> p, for exact posteriors at every state and for one time a row."""
    q_0 = np.random.default_rng(0).dirichlet(np.ones(9)).reshape(3, 3)
    with jax.enable_x64(True):
        for t in (0.1, 0.5, 0.9):
            p, _ = joint_posterior(process, q_0, t)
            x_t = jnp.stack(jnp.meshgrid(jnp.arange(process.states), jnp.arange(process.states), indexing="ij"), -1)
            used = np.asarray(process.noised(x_t))
            log_score = process.log_score(jnp.log(jnp.asarray(p)), x_t, t)
            np.testing.assert_allclose(np.exp(score.posterior(log_score, x_t, t, process))[used], p[used], atol=1e-9)


@pytest.mark.parametrize("process", [processes.Absorbing(3, schedules.Linear(1e-3)), processes.Uniform(3, schedules.Linear(1e-3))])
def test_loss_of_exact_scores_is_the_nelbo(process, key):
    """With the scores of a normalised posterior, score entropy is the NELBO of that posterior, term by term."""
    logits = jax.random.normal(key, (4, 5, 3))
    log_p = jax.nn.log_softmax(logits, -1)
    x_0 = jax.random.randint(key, (4, 5), 0, 3)
    t = jnp.linspace(0.2, 0.9, 4)
    x_t = process.corrupt(jax.random.fold_in(key, 1), x_0, t)
    nelbo = process.nelbo(log_p, x_0, x_t, t)
    entropy = processes.score_entropy(jax.vmap(process.log_score)(log_p, x_t, t), x_0, x_t, t[:, None], process)
    np.testing.assert_allclose(schedules.noise_rate(process.schedule, t)[:, None] * entropy, nelbo, rtol=2e-4, atol=2e-5)  # float32 sums of terms that cancel


def test_learning_scores_finds_the_posterior(key):
    """Minimising the loss of a free table on one-site data leads to a denoiser that gives the data's law and pays its entropy."""
    process = processes.Absorbing(3, schedules.Linear(1e-3))
    data = jnp.asarray([0, 0, 0, 0, 0, 1, 1, 1, 2, 2] * 64)[:, None]
    network = Denoiser(lambda params, x_t, t: jnp.broadcast_to(params, (*x_t.shape, 3)), lambda params, hidden: hidden)
    table = jnp.zeros(3)
    step = jax.jit(lambda table, key: table - 0.3 * jax.grad(lambda table: score.loss(key, table, data, process=process, network=network).mean())(table))
    for i in range(300):
        table = step(table, jax.random.fold_in(key, i))
    denoiser = score.as_denoiser(process, network)
    p = np.exp(denoiser(table, jnp.asarray([[3]]), 0.5))[0, 0]
    np.testing.assert_allclose(p, [0.5, 0.3, 0.2], atol=0.02)  # noise of stochastic gradients
    bits = np.mean([losses.nelbo(jax.random.fold_in(key, i), table, data, process=process, denoiser=denoiser, low=0.0).mean() for i in range(20)])
    np.testing.assert_allclose(bits, -(np.array([0.5, 0.3, 0.2]) @ np.log([0.5, 0.3, 0.2])), atol=0.02)
