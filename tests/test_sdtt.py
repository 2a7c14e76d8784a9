"""SDTT's targets and divergences against the authors' numbers (float64, 1e-9; their times passed through float32), and their meaning."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jddd import processes, schedules
from jddd.distill import sdtt
from jddd.types import BoundDenoiser

PROCESS = processes.Absorbing(11, schedules.Linear(1e-3))


def test_target_golden(golden):
    """Four teacher steps with the recorded draws: the target at the masked sites of x_t."""
    case = golden("sdtt_steps")
    with jax.enable_x64(True):
        x_t = x = jnp.asarray(case["in_xt"])
        log_target = jnp.zeros((3, 6, 11))
        for logits, drawn in zip(case["in_teacher_logits"], case["in_teacher_draws"]):
            x, log_target = sdtt.follow(x, log_target, jax.nn.log_softmax(jnp.asarray(logits)[..., :11], -1), jnp.asarray(drawn), PROCESS)
        np.testing.assert_allclose(log_target, case["out_teacher_target"][..., :11], rtol=1e-9, atol=1e-9)
        assert (np.asarray(log_target)[np.asarray(x_t) != 11] == 0).all()


def test_times_golden(golden):
    """The released code's times (float32), and ours, which fall by dt."""
    case = golden("sdtt_steps")
    start, step = jnp.asarray(case["in_t_start"], jnp.float32), float(case["in_step"])
    np.testing.assert_allclose(sdtt.times(start, step=step, count=4, form="released"), case["out_teacher_times"], rtol=1e-6)
    np.testing.assert_allclose(sdtt.times(start, step=step, count=4), start - step * np.arange(4)[:, None], rtol=1e-6)
    assert (sdtt.times(start, step=0.3, count=4) >= 1e-5).all()
    with pytest.raises(ValueError, match="distill.times is 'odd'"):
        sdtt.times(start, step=step, count=4, form="odd")


def test_divergences_golden(golden):
    """The four losses of the released code from its log-probabilities, whose last column is the mask's. Without that column, of probability 0, the KLs are
    the same and mse and log_l1 are not."""
    case = golden("sdtt_steps")
    names = dict(fwd_kl="forward_kl", bwd_kl="reverse_kl", mse="mse", tvd="log_l1")
    with jax.enable_x64(True):
        masked = jnp.asarray(case["in_xt"] == 11)
        student = jax.nn.log_softmax(jnp.asarray(case["in_student_logits"])[..., :11], -1)
        np.testing.assert_allclose(np.asarray(student)[masked], case["out_student_log_probs"][masked][:, :11], rtol=1e-9, atol=1e-9)
        q, p = (jnp.asarray(case[f"out_{name}"]) for name in ("teacher_target", "student_log_probs"))
        for theirs, ours in names.items():
            np.testing.assert_allclose(sdtt.divergence(q, p, masked, kind=ours), case[f"out_loss_{theirs}"], rtol=1e-9)
            columns = sdtt.divergence(q[..., :11], student, masked, kind=ours)
            junk = np.asarray(q - p)[masked][:, 11]
            extra = {"mse": lambda x: (11 * x + (junk**2).mean()) / 12, "log_l1": lambda x: x + np.abs(junk).mean()}.get(ours, lambda x: x)
            np.testing.assert_allclose(extra(columns), case[f"out_loss_{theirs}"], rtol=1e-9)


def test_divergences_are_divergences(key):
    """Each is 0 for equal laws and positive otherwise, without gradient to the target; total variation is at most 1 and bounded by the KL (Pinsker)."""
    q, p = (jax.nn.log_softmax(2 * jax.random.normal(k, (4, 5, 7)), -1) for k in jax.random.split(key))
    masked = jnp.arange(5) > jnp.arange(4)[:, None]
    for kind in sdtt.DIVERGENCES:
        assert sdtt.divergence(q, q, masked, kind=kind) == 0 < sdtt.divergence(q, p, masked, kind=kind)
        to_target, to_student = jax.grad(lambda q, p: sdtt.divergence(q, p, masked, kind=kind), (0, 1))(q, p)
        assert (to_target == 0).all() and (to_student[masked] != 0).any() and (to_student[~masked] == 0).all()
        assert sdtt.divergence(q, p, jnp.zeros_like(masked), kind=kind) == 0
    distance = sdtt.divergence(q, p, masked, kind="total_variation")
    assert distance <= jnp.sqrt(sdtt.divergence(q, p, masked) / 2) and distance <= 1
    with pytest.raises(ValueError, match="distill.divergence is 'chi2'"):
        sdtt.divergence(q, p, masked, kind="chi2")


def test_target_is_what_the_teacher_said_when_it_revealed(key):
    """A teacher that says how many sites are clean: a site's target names the step that revealed it; reveals come at the process's rate."""
    process, rows, length, step, count = processes.Absorbing(64), 400, 16, 0.1, 4

    def features(x, t):
        clean = (x != 64).sum(-1, keepdims=True) + jnp.zeros_like(x)
        return jax.nn.log_softmax(20.0 * jax.nn.one_hot(clean, 64), -1)

    start = jnp.full(rows, 0.5)
    x_t = process.corrupt(key, jnp.full((rows, length), 63), start)
    run = jax.jit(lambda key, x_t: sdtt.target(key, x_t, start, BoundDenoiser(features, lambda hidden: hidden), process=process, step=step, count=count))
    x, log_target = run(jax.random.fold_in(key, 1), x_t)
    masked, revealed = np.asarray(x_t == 64), np.asarray((x_t == 64) & (x != 64))
    assert (np.asarray(log_target)[~masked] == 0).all() and (x[~masked] == 63).all()
    assert (np.asarray(log_target.argmax(-1))[revealed] == np.asarray(x)[revealed]).all()  # the symbol drawn is the one said at that step
    np.testing.assert_allclose(revealed.sum() / masked.sum(), 0.8, atol=5 * 0.4 / np.sqrt(masked.sum()))  # from mask rate .5 to .1
