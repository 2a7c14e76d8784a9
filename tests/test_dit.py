"""The transformer: what each output may see, that it is a distribution, and how time enters."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jddd.models import dit

LENGTH, V = 9, 5
SMALL = dict(states=V + 1, symbols=V, width=8, depth=1, heads=2)


def drawn(config, seed=0, scale=0.5):
    """Parameters none of which is zero: a fresh network has zero output matrices and would hide what it sees."""
    shapes = jax.eval_shape(lambda key: dit.init(key, config, LENGTH), jax.random.key(0))
    generator = np.random.default_rng(seed)
    return jax.tree.map(lambda s: jnp.asarray(generator.normal(0.0, scale, s.shape), s.dtype), shapes)


@functools.cache
def program(config):
    network = dit.denoiser(config)
    return jax.jit(lambda params, x, t: network(params, x, t))


def outputs(config, params, x, t=1.0):
    """log p (B, L, V) of a batch."""
    return np.asarray(program(config)(params, jnp.asarray(x, jnp.int32), jnp.asarray(t, jnp.float32)))


def seen(config, params):
    """(L, L) bool: entry (i, j) says whether the output at i depends on the symbol at j, over a few texts and all other symbols at j."""
    base = np.random.default_rng(0).integers(0, V + 1, (2, LENGTH))
    rows = [base]
    for j in range(LENGTH):
        for shift in range(1, V + 1):
            other = base.copy()
            other[:, j] = (other[:, j] + shift) % (V + 1)
            rows.append(other)
    out = outputs(config, params, np.concatenate(rows))
    change = np.abs(out[2:].reshape(LENGTH, V, 2, LENGTH, V) - out[:2]).max((1, 2, 4))
    return change.T > 0


@pytest.mark.parametrize("conv", [0, 1, 4, 5])
def test_a_causal_network_sees_no_later_symbol(conv):
    """The output at i is the very same number whatever stands after i (weights of later symbols are exactly 0), and depends on i and all before it."""
    config = dit.DiTConfig(**SMALL, causal=True, conv=conv)
    np.testing.assert_array_equal(seen(config, drawn(config)), np.tril(np.ones((LENGTH, LENGTH), bool)))


@pytest.mark.parametrize("conv", [0, 4, 5])
def test_a_denoiser_sees_both_sides(conv):
    """Without the causal mask every output depends on every symbol."""
    config = dit.DiTConfig(**SMALL, conv=conv)
    assert seen(config, drawn(config)).all()


def test_convolution_is_the_sum_of_its_neighbours():
    """With attention and MLP silent, position i of a network of one block sees nobody else; the convolution acts before attention only."""
    config = dit.DiTConfig(**SMALL, conv=3)
    params = drawn(config)
    for name in ("attention_out", "mlp_out"):
        params["block_0"][name]["kernel"] = jnp.zeros_like(params["block_0"][name]["kernel"])
    np.testing.assert_array_equal(seen(config, params), np.eye(LENGTH, dtype=bool))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("time", [False, True])
def test_heads_are_normalised_log_probabilities(dtype, time):
    """log p is float32 and sums to one at every position whatever the activations are; the parameters are float32."""
    config = dit.DiTConfig(**SMALL, dtype=dtype, time_conditioning=time, conv=3)
    params = drawn(config)
    assert {x.dtype for x in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    log_p = outputs(config, params, np.random.default_rng(1).integers(0, V + 1, (3, LENGTH)), 0.3)
    assert log_p.dtype == np.float32 and log_p.shape == (3, LENGTH, V)
    assert np.ptp(log_p) > 0.5  # no uniform network
    np.testing.assert_allclose(np.exp(log_p.astype(np.float64)).sum(-1), 1.0, atol=1e-6)  # the log-sum-exp of 5 float32 numbers rounds a few times


def test_bfloat16_is_the_same_function_coarsely():
    """bfloat16 activations change log p by their rounding (8 bits, relative 2^-8 each) and no more."""
    config = dit.DiTConfig(**SMALL, conv=3)
    params, x = drawn(config, scale=0.2), np.random.default_rng(1).integers(0, V + 1, (3, LENGTH))
    exact, coarse = outputs(config, params, x), outputs(dit.DiTConfig(**SMALL, conv=3, dtype="bfloat16"), params, x)
    # some 20 roundings of relative 2^-9 on values of order 1 add up to about 0.02
    assert 0 < np.abs(exact - coarse).max() < 0.05


def test_a_fresh_network_predicts_uniformly():
    """Zero-initialised output matrices: log p = -log V before training, whatever is read."""
    config = dit.DiTConfig(**SMALL, time_conditioning=True)
    params = jax.jit(lambda key: dit.init(key, config, LENGTH))(jax.random.key(0))
    out = outputs(config, params, np.random.default_rng(0).integers(0, V + 1, (2, LENGTH)), 0.5)
    np.testing.assert_allclose(out, -np.log(V), rtol=1e-6)  # one float32 logarithm


def test_time_enters_by_the_modulation_alone():
    """With the zero modulation of a fresh network time changes nothing at all; with another modulation it does, and each row has its own time."""
    config = dit.DiTConfig(**SMALL, time_conditioning=True)
    params, x = drawn(config), np.random.default_rng(0).integers(0, V + 1, (2, LENGTH))
    still = params | {k: v | {"modulation": jax.tree.map(jnp.zeros_like, v["modulation"])} for k, v in params.items() if k.startswith("block")}
    np.testing.assert_array_equal(outputs(config, still, x, 0.2), outputs(config, still, x, 0.9))
    early, late = outputs(config, params, x, 0.2), outputs(config, params, x, 0.9)
    assert np.abs(early - late).max() > 1e-2
    rows = outputs(config, params, x, [0.2, 0.9])
    np.testing.assert_allclose(rows, np.stack([early[0], late[1]]), atol=1e-5)  # float32, the same sums in programs of other shapes


def test_a_network_without_time_does_not_read_it():
    """time_conditioning=False has no parameters for time and gives the same numbers at all times."""
    config = dit.DiTConfig(**SMALL)
    params, x = drawn(config), np.random.default_rng(0).integers(0, V + 1, (2, LENGTH))
    assert not [k for k in params if "time" in k]
    np.testing.assert_array_equal(outputs(config, params, x, 0.2), outputs(config, params, x, 0.9))


def test_rotary_scores_depend_on_the_distance_alone():
    """<R_i q, R_j k> = <R_{i+s} q, R_{j+s} k>, and a rotation keeps lengths (Su et al. 2021)."""
    vectors = np.random.default_rng(0).normal(size=(2, 1, 1, 8)).astype(np.float32)
    q, k = rotated = np.asarray(jax.jit(dit.rotate)(np.tile(vectors, (1, 1, 12, 1))))[:, 0]
    score = q @ k.T
    for distance in range(-11, 12):
        diagonal = np.diagonal(score, distance)
        np.testing.assert_allclose(diagonal, diagonal[0], atol=1e-5)  # float32 cosines of angles up to 11 (errors of 1e-6) times values of order 1
    assert np.ptp(score) > 0.1
    lengths = np.linalg.norm(vectors[:, 0], axis=-1).repeat(12, 1)
    np.testing.assert_allclose(np.linalg.norm(rotated, axis=-1), lengths, rtol=1e-6)  # one float32 rotation


def test_positions_matter():
    """Two equal symbols in different surroundings are told apart: the network is no bag of symbols."""
    config = dit.DiTConfig(**SMALL)
    params = drawn(config)
    out = outputs(config, params, [[0, 1, 2, 3, 4, 0, 1, 2, 3], [0, 2, 1, 3, 4, 0, 1, 2, 3]])
    assert np.abs(out[0, 0] - out[1, 0]).max() > 1e-4


def test_longer_texts_than_those_of_init():
    """Positions have no parameters, so a network reads any length; a causal one gives the same prefix, up to float32 sums of another length."""
    config = dit.DiTConfig(**SMALL, causal=True)
    params, x = drawn(config), np.random.default_rng(0).integers(0, V, (2, 2 * LENGTH))
    np.testing.assert_allclose(outputs(config, params, x)[:, :LENGTH], outputs(config, params, x[:, :LENGTH]), atol=1e-5)


@pytest.mark.parametrize(
    ("values", "field"),
    [
        (dict(width=10, heads=4), "model.width"),
        (dict(width=6, heads=2), "model.width"),  # a head of 3 has no halves to rotate
        (dict(width=0), "model.width"),
        (dict(width=-8), "model.width"),
        (dict(heads=0), "model.heads"),
        (dict(heads=-2), "model.heads"),
        (dict(depth=-1), "model.depth"),
        (dict(conv=-1), "model.conv"),
        (dict(dtype="float16"), "model.dtype"),
        (dict(dtype=""), "model.dtype"),
    ],
)
def test_bad_sizes_are_refused_by_name(values, field):
    """A size no network can have is a ValueError that names the field."""
    with pytest.raises(ValueError, match=field):
        dit.DiTConfig(**(SMALL | values))


@pytest.mark.parametrize("positions", [False, True])
def test_an_empty_row_has_a_beginning_with_positions_alone(positions):
    """All symbols equal and no convolution: rotary positions, being relative, say the same everywhere; absolute ones tell all sites apart."""
    config = dit.DiTConfig(**SMALL, positions=positions)
    out = outputs(config, drawn(config), np.full((1, LENGTH), V))[0]
    apart = np.abs(out[:, None] - out[None]).max(-1)[np.triu_indices(LENGTH, 1)]
    assert (apart > 1e-4).all() if positions else (apart < 1e-5).all()


# ---------------------------------------------------------------------------------------------------------------------------------------- the latent
LATENT = [dict(), dict(positions=True), dict(conv=5), dict(conv=4, depth=2), dict(time_conditioning=True, conv=3)]


@pytest.mark.parametrize("more", LATENT)
def test_a_student_starts_as_its_teacher(more):
    """With its teacher's weights and fresh ones for the latent, the student says what the teacher says, whatever the latent: what is read of the latent's
    token is 0, so only the order of sums differs (float32, 1e-6 of numbers of order 1)."""
    config = dit.DiTConfig(**SMALL | more)
    student = dit.DiTConfig(**SMALL | more, latent=True)
    params, x = drawn(config, scale=0.3), np.random.default_rng(1).integers(0, V + 1, (3, LENGTH))
    grown = dit.from_teacher(dit.init(jax.random.key(1), student, LENGTH), params)
    assert jax.tree.structure(grown) == jax.tree.structure(dit.init(jax.random.key(1), student, LENGTH))
    for latent in (0.0, 0.3, 0.999):
        found = dit.denoiser(student)(grown, jnp.asarray(x), jnp.ones(()), jnp.full(3, latent))
        np.testing.assert_allclose(found, outputs(config, params, x), atol=2e-6)


@pytest.mark.parametrize("more", LATENT)
def test_every_site_sees_its_own_rows_latent(more):
    """With its matrices open each output depends on the latent of its row, and on no other row's."""
    config = dit.DiTConfig(**SMALL | more, latent=True)
    params, x = drawn(config), jnp.asarray(np.random.default_rng(1).integers(0, V + 1, (2, LENGTH)), jnp.int32)
    network = dit.denoiser(config)
    assert network.mixture
    one, other = (np.asarray(network(params, x, jnp.ones(()), jnp.asarray([0.2, latent]))) for latent in (0.2, 0.7))
    np.testing.assert_array_equal(one[0], other[0])
    assert (np.abs(one[1] - other[1]).max(-1) > 1e-6).all()
    np.testing.assert_allclose(np.exp(one).sum(-1), 1, rtol=1e-5)


def test_the_latents_token_has_no_place():
    """rotate leaves the loose tokens at the end as they are, and the others as without them."""
    x = np.random.default_rng(0).normal(size=(1, 1, 7, 8)).astype(np.float32)
    found = dit.rotate(jnp.asarray(x), 1)
    np.testing.assert_array_equal(found[..., -1, :], x[..., -1, :])
    np.testing.assert_array_equal(found[..., :-1, :], dit.rotate(jnp.asarray(x[..., :-1, :])))


def test_latents_are_given_to_mixtures_alone():
    """A mixture without a latent, a product with one, and a causal mixture are refused by name."""
    x = jnp.zeros((1, LENGTH), jnp.int32)
    for latent, given in ((True, ()), (False, (jnp.zeros(1),))):
        config = dit.DiTConfig(**SMALL, latent=latent)
        with pytest.raises(ValueError, match="latent is .*model.latent"):
            dit.denoiser(config)(drawn(config), x, jnp.ones(()), *given)
    with pytest.raises(ValueError, match="model.latent"):
        dit.DiTConfig(**SMALL, latent=True, causal=True)
