"""Jump Your Steps: the authors' numbers, closed forms on data whose posterior is known, and how far its grids end from the optimum.

tests/fixtures/jys_klub.*: inputs, outputs and weights of the reference (enkeejunior1/jump-your-steps at 3de34f6, float32 on a CPU).
"""

import itertools
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from jddd import processes, schedules
from jddd.distill import jys
from jddd.types import Denoiser

FIXTURES = Path(__file__).parent / "fixtures"
LOGLINEAR = processes.Absorbing(13, schedules.Linear(1e-3))
HEADS, WIDTH = 2, 16


def sedd(weights, x, sigma):
    """SEDD's network (Lou et al. 2024) in float64: log-scores (B, L, 14) of states (B, L) at total noise sigma (B,), right at masked sites."""
    dense = lambda h, name: h @ weights[f"{name}.weight"].T + weights.get(f"{name}.bias", 0)
    silu = lambda h: h / (1 + np.exp(-h))
    gelu = lambda h: 0.5 * h * (1 + np.tanh(np.sqrt(2 / np.pi) * (h + 0.044715 * h**3)))
    angle = np.arange(x.shape[1])[:, None] * weights["rotary_emb.inv_freq"]
    phase = sigma[:, None] * 10_000.0 ** (-np.arange(128) / 128)
    condition = dense(silu(dense(np.concatenate([np.cos(phase), np.sin(phase)], -1), "sigma_map.mlp.0")), "sigma_map.mlp.2")
    modulation = lambda name, count: np.split(dense(silu(condition), f"{name}.adaLN_modulation")[:, None], count, -1)

    def norm(h, name, shift, scale):
        h = (h - h.mean(-1, keepdims=True)) / np.sqrt(h.var(-1, keepdims=True) + 1e-5)
        return h * weights[f"{name}.weight"] * (1 + scale) + shift

    def rotate(h):
        a, b = np.split(h, 2, -1)
        return np.concatenate([a * np.cos(angle) - b * np.sin(angle), a * np.sin(angle) + b * np.cos(angle)], -1)

    h = weights["vocab_embed.embedding"][x]
    for block in ("blocks.0", "blocks.1"):
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = modulation(block, 6)
        qkv = dense(norm(h, f"{block}.norm1", shift_1, scale_1), f"{block}.attn_qkv")
        q, k, v = qkv.reshape(*x.shape, 3, HEADS, WIDTH).transpose(2, 0, 3, 1, 4)
        weight = np.exp(rotate(q) @ rotate(k).swapaxes(-1, -2) / np.sqrt(WIDTH))
        seen = (weight / weight.sum(-1, keepdims=True) @ v).swapaxes(1, 2).reshape(h.shape)
        h = h + gate_1 * dense(seen, f"{block}.attn_out")
        h = h + gate_2 * dense(gelu(dense(norm(h, f"{block}.norm2", shift_2, scale_2), f"{block}.mlp.0")), f"{block}.mlp.2")
    out = dense(norm(h, "output_layer.norm_final", *modulation("output_layer", 2)), "output_layer.linear")
    return out - np.log(np.expm1(sigma))[:, None, None] - math.log(13)


@pytest.fixture(scope="module")
def weights():
    return {name: array.astype(np.float64) for name, array in load_file(FIXTURES / "jys_klub.safetensors").items()}


def rates(log_score, x, t):
    """reverse_rates from a log-score: the SEDD network's p is not normalised, log p = log-score - log odds."""
    t = np.broadcast_to(np.float64(t), len(x))
    log_p = log_score[..., :13] - (np.log1p(-0.999 * t) - np.log(0.999 * t))[:, None, None]
    return jys.reverse_rates(jnp.asarray(log_p, jnp.float32), jnp.asarray(x, jnp.int32), jnp.asarray(t, jnp.float32), LOGLINEAR)


def test_rates_and_klub_of_recorded_scores(golden):
    """All 8 recorded pairs of scores: both rates, and the KLUB with both states from the data."""
    case = golden("jys_klub")
    for i, (t_1, t_2, t_next) in enumerate(case["in_t"]):
        values = []
        for j in range(2):
            pair = [rates(case[f"out_log_score_{n}"][i, j], case[f"in_xt{n}"][i, j], t) for n, t in ((1, t_1), (2, t_2))]
            for n, rate in zip((1, 2), pair):
                np.testing.assert_allclose(rate, case[f"out_rate_{n}"][i, j, ..., :13], rtol=5e-5, atol=1e-9)
            values.append(float(jys.klub(*pair, float(t_2 - t_next))))
        # At t = 1 the network's own sigma is a float32 log of 0.001, which the rate of the reference cancels and ours does not.
        np.testing.assert_allclose(np.mean(values), case["out_klub_data"][i], rtol=1e-4 if t_1 == 1 else 2e-6)


def test_klub_of_the_recorded_network(golden, weights):
    """With the network computed afresh: its log-scores, and the KLUB from the data, with a kept prefix, on the path, and over token counts."""
    case = golden("jys_klub")

    def score(x, t):
        return sedd(weights, x, -np.log1p(-0.999 * np.broadcast_to(np.float64(t), len(x))))

    def klub(x_1, t_1, x_2, t_2, t_next):
        rows = zip(*(np.broadcast_to(t, (2, 3)) for t in (t_1, t_2, t_next)), x_1, x_2)
        step = lambda t_2, t_next: jnp.asarray(t_2 - t_next, jnp.float32)
        return np.mean([float(jys.klub(rates(score(a, p), a, p), rates(score(b, q), b, q), step(q, r))) for p, q, r, a, b in rows])

    for i, (t_1, t_2, t_next) in enumerate(case["in_t"]):
        x_1, x_2, kept = case["in_xt1"][i], case["in_xt2"][i], np.arange(16) < case["in_fix_length"]
        recorded = case["out_log_score_1"][i, 0]
        own = np.eye(14, dtype=bool)[x_1[0]]
        np.testing.assert_allclose(np.where(own, 0, score(x_1[0], t_1)), recorded, atol=3e-5 if t_1 == 1 else 3e-6)
        np.testing.assert_allclose(klub(x_1, t_1, x_2, t_2, t_next), case["out_klub_data"][i], rtol=5e-6)
        fixed = [np.where(kept, case["in_x0"], x) for x in (x_1, x_2)]
        np.testing.assert_allclose(klub(fixed[0], t_1, fixed[1], t_2, t_next), case["out_klub_data_fixed"][i], rtol=5e-6)
        np.testing.assert_allclose(klub(x_1, t_1, case["in_xt2_path"][i], t_2, t_next), case["out_klub_path"][i], rtol=5e-6)
    for i in range(len(case["in_k"])):
        times = [case[f"in_k_t{n}"][i] for n in ("1", "2", "next")]
        for variant, x_2 in (("data", case["in_k_xt2"][i]), ("path", case["in_k_xt2_path"][i])):
            value = klub(case["in_k_xt1"][i], times[0], x_2, *times[1:])
            np.testing.assert_allclose(value, case[f"out_klub_k_{variant}"][i], rtol=5e-6)


def test_counted_states_and_their_times(golden):
    """The states of k clean sites and each row's time are the reference's, from its own draws, and are nested."""
    case = golden("jys_klub")
    for i, counts in enumerate(case["in_k"]):
        for j in range(2):
            x_0 = jnp.asarray(case["in_x0"][j], jnp.int32)
            for name, k in zip(("1", "2", "next"), counts):
                x, t = jys.counted(jnp.asarray(case["in_u"][j]), x_0, int(k), LOGLINEAR)
                np.testing.assert_allclose(t, case[f"in_k_t{name}"][i, j], atol=2e-7)
                assert ((x != 13).sum(-1) == k).all()
                if name != "next":
                    np.testing.assert_array_equal(x, case[f"in_k_xt{name}"][i, j])


def test_golden_section_is_the_references(golden):
    """The same points in the same order, to float64 rounding, and the same result."""
    case = golden("jys_klub")
    options = dict(tolerance=float(case["in_golden_err"]), most=int(case["in_golden_max_iter"]))
    for i, (m, w, b) in enumerate(case["in_golden_params"].astype(np.float64)):
        best, points = jys.golden_section(lambda x: (x - m) ** 2 + w * np.cos(b * x), 0.0, 1.0, **options)
        assert len(points) == case["out_golden_count"][i]
        np.testing.assert_allclose(points, case["out_golden_points"][i][: len(points)], atol=1e-12)
        np.testing.assert_allclose(best, case["out_golden_result"][i], atol=1e-12)


def test_golden_section_stops_at_its_tolerance():
    best, points = jys.golden_section(lambda x: (x - 2.7) ** 2, 1.0, 5.0, tolerance=1e-3, most=100)
    assert abs(best - 2.7) < 1e-3 and len(points) < 50
    assert len(jys.golden_section(abs, -1.0, 1.0, tolerance=2.0)[1]) == 3


def test_best_count_is_exact_where_there_is_one_valley():
    """Every minimum of every range of up to 30 counts, steep on either side; all counts of a narrow range, few of a wide one."""
    for low, size, (left, right) in itertools.product((0, 3), range(30), ((1, 1), (3, 1), (1, 3))):
        for m in range(low, low + size + 1):
            f = lambda k: left * max(m - k, 0) + right * max(k - m, 0)
            assert jys.best_count(f, low, low + size) == m
    asked = []
    assert jys.best_count(lambda k: asked.append(k) or (k - 700) ** 2, 1, 1023) == 700
    assert len(asked) == len(set(asked)) < 25


def equal_sites(symbols, tiny=1e-6):
    """The posterior of data whose sites all carry one uniform symbol: the clean sites' symbol, or nothing. params is not used."""

    def features(params, x_t, t):
        clean = jax.nn.one_hot(x_t, symbols).sum(-2)  # the mask has no column
        share = clean / jnp.maximum(clean.sum(-1, keepdims=True), 1) + (clean.sum(-1, keepdims=True) == 0) / symbols
        p = (1 - tiny) * share + tiny / symbols
        return jnp.broadcast_to(p[..., None, :], (*x_t.shape, symbols))

    return Denoiser(features, lambda params, hidden: jnp.log(hidden))


def equal_data(symbols, length, rows=32768):
    return jnp.broadcast_to(jax.random.randint(jax.random.key(1), (rows, 1), 0, symbols, jnp.int32), (rows, length))


def two_sites(symbols, t_1, t_2, t_next):
    """The KLUB of two equal sites in closed form: a masked site has rate 1 / t and, with chance t_1 - t_2, has just seen the other one."""
    return (t_2 - t_next) * ((t_1 - t_2) * np.log(symbols) + np.log(t_1 / t_2))


def two_site_grid(symbols, steps):
    """What JYS finds with the closed form and an exact search."""
    times = [1.0, 0.0]
    while len(times) <= steps:
        middles = []
        for t_1, t_next in itertools.pairwise(times):
            fine = np.linspace(t_next, t_1, 100_001)[1:-1]
            middles.append(fine[two_sites(symbols, t_1, fine, t_next).argmax()])
        times = sorted([*times, *middles], reverse=True)
    return np.array(times)


SMALL = dict(batch=8192)


@pytest.mark.parametrize("variant", jys.VARIANTS)
def test_klub_is_its_closed_form(key, variant):
    """On two equal sites, within Monte Carlo error (32768 rows; masks that were not nested would cost a log of 1e8 a site)."""
    symbols = 8
    options = dict(denoiser=equal_sites(symbols), process=processes.Absorbing(symbols), variant=variant, solver="tweedie", **SMALL)
    for times in ((1.0, 0.5, 0.0), (1.0, 0.9, 0.2), (0.7, 0.3, 0.1)):
        value = jys.klub_times(key, None, equal_data(symbols, 2), *times, **options)
        np.testing.assert_allclose(value, two_sites(symbols, *times), rtol=0.03)
    for ends in ((1.0, 1.0, 0.0), (1.0, 0.0, 0.0)):
        np.testing.assert_allclose(jys.klub_times(key, None, equal_data(symbols, 2), *ends, **options), 0.0, atol=1e-3)


def test_klub_of_uniform_noise_is_its_closed_form(key):
    """One site of uniform data: every score is 1, so R = r(t) / V; the targets are all states but x_2 and x_1 for the logs, all but x_1 for R_1 - R_2."""
    symbols, t_1, t_2, t_next = 5, 0.9, 0.4, 0.1
    process = processes.Uniform(symbols)
    flat = Denoiser(lambda params, x_t, t: process.log_evidence(x_t, jnp.broadcast_to(t, x_t.shape)), lambda params, hidden: jax.nn.log_softmax(hidden, -1))
    x_0 = jax.random.randint(jax.random.key(2), (8192, 1), 0, symbols, jnp.int32)
    value = jys.klub_times(key, None, x_0, t_1, t_2, t_next, denoiser=flat, process=process, variant="data", solver="tweedie", **SMALL)
    r_1, r_2 = 1 / (1 - t_1) / symbols, 1 / (1 - t_2) / symbols
    other = (t_1 - t_2) * (1 - 1 / symbols)  # x_1 is noise that x_2 is not, and differs from it
    both = r_2 * np.log(r_2 / r_1) - r_2 + r_1
    wanted = (t_2 - t_next) * ((1 - other) * (symbols - 1) * both + other * ((symbols - 2) * both + r_1))
    np.testing.assert_allclose(value, wanted, rtol=0.02)


def test_the_path_is_the_samplers_own(key):
    """Data of ones, and a network that draws zeros until it sees a one: from the data a stop is news, on the path x_2 holds zeros and only the clock of
    the rates has moved, log(t_1 / t_2)."""

    def features(params, x_t, t):
        seen = (x_t == 1).any(-1)[:, None, None]
        return jnp.broadcast_to(jnp.where(seen, jnp.array([1e-6, 1 - 1e-6]), jnp.array([1 - 1e-6, 1e-6])), (*x_t.shape, 2))

    options = dict(denoiser=Denoiser(features, lambda params, hidden: jnp.log(hidden)), process=processes.Absorbing(2), **SMALL)
    ones, length, k = jnp.ones((32768, 8), jnp.int32), 8, 3
    clock = 0.5 * np.log(1 / 0.5)
    news = 0.5 * (1 - 0.5**7) * np.log(1e6)  # some other site has been seen
    for variant, wanted in (("data", clock + news), ("path", clock)):
        np.testing.assert_allclose(jys.klub_times(key, None, ones, 1.0, 0.5, 0.0, variant=variant, solver="tweedie", **options), wanted, rtol=0.01)
    clock = (1 - k / length) * sum(1 / i for i in range(length - k, length))
    for variant, wanted in (("data", clock + (1 - k / length) * np.log(1e6)), ("path", clock)):
        np.testing.assert_allclose(jys.klub_counts(key, None, ones, 0, k, length, variant=variant, **options), wanted, rtol=0.01)


@pytest.mark.parametrize("variant", jys.VARIANTS)
@pytest.mark.parametrize("symbols, far", [(2, 0.10), (16, 0.06)])
def test_how_far_the_split_ends_from_the_optimum(key, symbols, far, variant):
    """Two equal sites: a grid is wrong with probability (1 - 1/S) sum dt^2, so equal steps are best; the KLUB's own maximum, where
    (1 - 2 t) log S = 1 + log t, is 0.086 below 1/2 for S = 2 and 0.040 for S = 16: 2.9 % and 0.6 % more errors. The search ends
    within 0.017 of that (5 keys, both variants; 32768 rows)."""
    process = processes.Absorbing(symbols)
    times = np.asarray(jys.optimise_times(key, None, equal_data(symbols, 2), 2, denoiser=equal_sites(symbols), process=process, variant=variant, **SMALL))
    assert times.dtype == np.float32 and times[0] == 1 and times[2] == 0
    np.testing.assert_allclose(times[1], two_site_grid(symbols, 2)[1], atol=0.025)
    assert 0 < 0.5 - times[1] < far
    assert (np.diff(times) ** 2).sum() / 0.5 < 1 + 4 * far**2


def test_four_steps_split_each_half(key):
    """M = 4 is M = 2 with both intervals split; on two equal sites each is where the closed form has it, and errors are within 3 % of the optimum (1.6 % measured)."""
    options = dict(denoiser=equal_sites(16), process=processes.Absorbing(16), **SMALL)
    two, four = (np.asarray(jys.optimise_times(key, None, equal_data(16, 2), steps, **options)) for steps in (2, 4))
    np.testing.assert_array_equal(four[::2], two)
    np.testing.assert_allclose(four, two_site_grid(16, 4), atol=0.03)
    assert (np.diff(four) ** 2).sum() / 0.25 < 1.03
    assert np.array_equal(jys.optimise_times(key, None, equal_data(16, 2), 1, **options), [1, 0])


def test_an_interval_may_be_given(key):
    options = dict(denoiser=equal_sites(4), process=processes.Absorbing(4), start=0.8, end=0.1, **SMALL)
    times = np.asarray(jys.optimise_times(key, None, equal_data(4, 2), 4, **options))
    np.testing.assert_allclose(times[[0, -1]], [0.8, 0.1], rtol=1e-6)
    assert (np.diff(times) < 0).all()


def test_uniform_process_gives_a_grid_that_can_be_sampled(key):
    """Two equal sites under uniform noise, with the posterior of data that is equal nine times in ten (exact there, finite off the data): both
    variants split near the middle. The KLUB without R_1 - R_2 splits at 0.28 ('data') and 0.83 ('path')."""
    symbols, process = 4, processes.Uniform(4)
    prior = jnp.log(0.9 * jnp.eye(symbols) / symbols + 0.1 / symbols**2)

    def features(params, x_t, t):
        first, second = jnp.moveaxis(process.log_evidence(x_t, jnp.broadcast_to(t, x_t.shape)), -2, 0)
        joint = prior + first[..., :, None] + second[..., None, :]
        return jnp.stack([jax.nn.logsumexp(joint, -1), jax.nn.logsumexp(joint, -2)], -2)

    denoiser = Denoiser(features, lambda params, hidden: jax.nn.log_softmax(hidden, -1))
    options = dict(denoiser=denoiser, process=process, start=0.9, **SMALL)
    found = [np.asarray(jys.optimise_times(key, None, equal_data(symbols, 2, 8192), 4, variant=variant, **options)) for variant in jys.VARIANTS]
    for times in found:
        assert (np.diff(times) < 0).all() and 0.4 < times[2] < 0.7
    np.testing.assert_allclose(*found, atol=0.1)


def test_one_compilation_serves_every_time(key):
    """The denoiser is traced as often for eight steps as for two: t_1, t_2 and t_next are arguments."""
    traced, counts = [], []
    inner = equal_sites(3)

    def features(params, x_t, t):
        traced.append(None)
        return inner.features(params, x_t, t)

    denoiser = Denoiser(features, inner.head)
    for steps in (2, 8):
        jys.optimise_times(key, None, equal_data(3, 2, 64), steps, denoiser=denoiser, process=processes.Absorbing(3))
        counts.append(len(traced))
    assert counts[0] == counts[1] > 0


def test_klub_over_counts_is_its_closed_form(key):
    """L equal sites from none clean: t_i is the largest of n_i = L - k_i uniform draws, so that E log(t_1 / t_2) = sum of 1 / i for n_2 <= i < n_1."""
    symbols, length = 8, 16
    options = dict(denoiser=equal_sites(symbols), process=processes.Absorbing(symbols), **SMALL)
    x_0 = equal_data(symbols, length)
    for k in (1, 5, 12):
        wanted = (1 - k / length) * (np.log(symbols) + sum(1 / i for i in range(length - k, length)))
        np.testing.assert_allclose(jys.klub_counts(key, None, x_0, 0, k, length, variant="data", **options), wanted, rtol=0.01)
    # From no clean site to one, the network's symbol has the data's law; which one it is does not matter here.
    pair = [jys.klub_counts(key, None, x_0, 0, 1, length, variant=variant, **options) for variant in jys.VARIANTS]
    np.testing.assert_allclose(*pair, rtol=1e-5)


@pytest.mark.parametrize("variant", jys.VARIANTS)
@pytest.mark.parametrize("steps", [1, 2, 4, 8, 16])
def test_counts_rise_from_zero_to_the_length(key, steps, variant):
    """And, as P(correct) = E[S^(1 - K)] for K sites in the first step says they should, they begin with a step of one site: the optimum exactly."""
    options = dict(denoiser=equal_sites(8), process=processes.Absorbing(8), variant=variant, batch=256)
    counts = jys.optimise_counts(key, None, equal_data(8, 16, 256), steps, **options)
    assert counts.shape == (steps + 1,) and np.issubdtype(counts.dtype, np.integer)
    assert counts[0] == 0 and counts[-1] == 16 and (np.diff(counts) > 0).all()
    if steps > 1:
        assert counts[1] == 1


def test_bad_values_are_refused_by_name(key):
    absorbing, uniform = processes.Absorbing(3), processes.Uniform(3)
    x_0 = equal_data(3, 4, 32)

    def refused(message, optimise=jys.optimise_times, steps=2, process=absorbing, x_0=x_0, **options):
        with pytest.raises(ValueError, match=message):
            optimise(key, None, x_0, steps, denoiser=equal_sites(3), process=process, **options)

    for optimise in (jys.optimise_times, jys.optimise_counts):
        for steps in (0, 3, 6, -2):
            refused(f"steps is {steps}; allowed: a power of two", optimise, steps)
        refused("variant is 'paths'", optimise, variant="paths")
        refused("x_0 has 31 rows and batch is 32", optimise, x_0=x_0[:31])
    refused("solver is 'heun'", solver="heun")
    refused("start is 0.2 and end is 0.4", start=0.2, end=0.4)
    refused("start is 1.0, where alpha is 0", process=uniform)
    refused("steps is 8 for 4 sites", jys.optimise_counts, 8)
    refused("process is Uniform", jys.optimise_counts, process=uniform)


def test_a_denoiser_that_fails_is_not_searched(key):
    broken = Denoiser(lambda params, x_t, t: jnp.full((*x_t.shape, 3), jnp.nan), lambda params, hidden: hidden)
    with pytest.raises(FloatingPointError, match="KLUB"):
        jys.optimise_times(key, None, equal_data(3, 2, 32), 2, denoiser=broken, process=processes.Absorbing(3))
