"""LSD and LSD+ (Learnable Sampler Distillation, arXiv 2509.19962): a sampler's few numbers, learned over a frozen teacher.

LSD learns the coefficients, LSD+ the times too. Two objectives:

* path_kl: the KL between the forward path and the student's path, from the teacher's measured cost profile (jddd.distill.profile); exact gradients
  through times and coefficients, no sampling. The student's own mask rate follows from its numbers, m_{k+1} = m_k (1 - E[reveal probability]), which
  is the forward path closest to the student.
* paper: Eq. 6 and Eq. 8, squared L2 between scores of teacher and student along their own chains, with the remedies it needs as options.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from jddd import absorbing, grids, processes, sampling, solvers, train
from jddd.distill import profile as profiles
from jddd.distill import segments
from jddd.sampling import Student
from jddd.types import Denoiser, Params, PRNGKey, Scalar, Times, bind

OBJECTIVES = ("path_kl", "paper")
PLACEMENTS = ("independent", "coupled", "same_state")


@dataclasses.dataclass(frozen=True)
class LSDConfig:
    """How a student is learned.

    objective: 'path_kl' (a teacher without time conditioning, or coefficients of 1: costs are measured at the time of the mask rate) or 'paper'. form: where the coefficient goes, 'score' (paper, Eq. 5) or 'log_score' (released code). learn_times: LSD+.
    steps, learning_rate: of Adam. For 'paper': teacher_steps (N), batch (rows of the chains), rounds (the chains are drawn again that often),
    noise ('independent' chains as in the paper, 'coupled', or 'same_state': both scores at the teacher's state), renormalise (step sizes scaled to
    reach t = 0; without it, for which rounds must be 1, Eq. 8's minimiser stops at about M / N of the way), relaxed (share of sites by which the student's start may differ)."""

    objective: str = "path_kl"
    form: str = "score"
    learn_times: bool = True
    steps: int = 300
    learning_rate: float = 0.03
    teacher_steps: int = 256
    batch: int = 16
    rounds: int = 2
    noise: str = "independent"
    renormalise: bool = True
    relaxed: float = 0.05
    seed: int = 0

    def __post_init__(self):
        for value, allowed, field in ((self.objective, OBJECTIVES, "objective"), (self.form, solvers.FORMS, "form"), (self.noise, PLACEMENTS, "noise")):
            if value not in allowed:
                raise ValueError(f"distill.{field} is {value!r}; allowed: {', '.join(allowed)}")
        if not 0 <= self.relaxed < 1:
            raise ValueError(f"distill.relaxed is {self.relaxed}; allowed: a share in [0, 1)")
        if self.noise == "coupled" and self.form != "score":
            raise ValueError(f"distill.noise is 'coupled' with distill.form {self.form!r}; allowed: form 'score' (thresholds are shared, so reveals must not depend on the network)")
        if self.learn_times and not self.renormalise and self.rounds > 1:
            raise ValueError(f"distill.renormalise is False with distill.rounds {self.rounds}; allowed: rounds 1 (measured again at its own times, Eq. 8's literal grid leaves [0, 1])")


# ----------------------------------------------------------------------------------------------------------------------------- parametrisation
def initial(times: Times, learn_times: bool) -> Params:
    """Parameters of a student that starts as the plain sampler on `times`."""
    times = jnp.asarray(times, jnp.float32)
    params = {"log_coefficients": jnp.zeros(len(times) - 1)}
    if learn_times:
        params["log_sizes"] = jnp.log(times[:-1] - times[1:])
    return params


def student(params: Params, times: Times, renormalise: bool = True) -> Student:
    """The student of parameters over the grid it started from. Learned step sizes are positive; renormalised ones reach the last time exactly."""
    if "log_sizes" in params:
        sizes = jnp.exp(params["log_sizes"])
        span = times[0] - times[-1]
        if renormalise:
            sizes = span * jax.nn.softmax(params["log_sizes"])
        fallen = jnp.cumsum(sizes)
        times = jnp.concatenate([times[:1], jnp.maximum(times[0] - fallen, times[-1])])
        if renormalise:
            times = times.at[-1].set(times[0] - span)
    return sampling.plain(times).replace(coefficients=jnp.exp(params["log_coefficients"]))


# ------------------------------------------------------------------------------------------------------------------------------------- path KL
def _bracket(points: Float[Array, "n"], value: Scalar) -> tuple[Array, Scalar]:
    """(i, share) with value = (1 - share) points[i] + share points[i + 1]; the share is clipped to [0, 1]."""
    i = jnp.clip(jnp.searchsorted(points, value) - 1, 0, len(points) - 2)
    return i, jnp.clip((value - points[i]) / (points[i + 1] - points[i]), 0.0, 1.0)


def path_kl(learned: Student, profile: profiles.Profile, *, process: processes.Absorbing, solver: str, form: str) -> Scalar:
    """The student's path cost in nats a site: KL(forward path || student path) + NELBO's constant, differentiable in times and coefficients.

    A step at mask rate m reveals site i with probability r_i (mean r) and pays m [ r E(-log(r_i q_i)) + (1 - r) E(-log(1 - r_i)) - H(r) ], q_i the
    probability of the true symbol: with form 'score' all r_i are equal and m r CE(m) remains, the Riemann sum."""
    tiny = 1e-6
    weight = profile.valid / profile.valid.sum(-1, keepdims=True)

    def step(m, inputs):
        amplitude = absorbing.log_amplitude(process, inputs, solver, form)
        if form == "score":
            chance = jnp.where(inputs.last, 1.0, jnp.minimum(absorbing.reveal_probability(amplitude, solver), 1 - tiny))
            return m * (1 - chance), m * chance * profiles.curve(profile, m)
        # The two measured rates around m, and the two measured exponents around the coefficient, each interpolated linearly.
        row, between = _bracket(profile.rates, m)
        coefficient = jnp.clip(inputs.coefficient, profile.exponents[0], profile.exponents[-1])
        column, share = _bracket(profile.exponents, coefficient)
        pick = lambda values: jax.lax.dynamic_slice_in_dim(values, row, 2)
        low, high = (pick(jax.lax.dynamic_index_in_dim(profile.log_mass, column + i, 1, False)) for i in (0, 1))
        log_mass = (1 - share) * low + share * high
        log_q = coefficient * pick(profile.log_p) - log_mass
        chances = jnp.clip(absorbing.reveal_probability(amplitude + log_mass, solver), tiny, 1 - tiny)
        sites = pick(weight) * jnp.stack([1 - between, between])[:, None]
        mean = lambda values: jnp.sum(sites * values)
        r = mean(chances)
        entropy = -r * jnp.log(r) - (1 - r) * jnp.log1p(-r)
        cost = m * (r * mean(-jnp.log(chances) - log_q) + (1 - r) * mean(-jnp.log1p(-chances)) - entropy)
        final = m * mean(-log_q)
        return m * jnp.where(inputs.last, 0.0, 1 - r), jnp.where(inputs.last, final, cost)

    _, costs = jax.lax.scan(step, 1 - process.schedule.alpha(learned.times[0]), learned.steps())
    return costs.sum()


def path_cost(measured: profiles.Profile | segments.Table, *, process, solver: str, form: str) -> tuple:
    """(function of (student, measured), measured): the path KL priced with a profile (absorbing) or a table of segments (any process; the table was
    measured for one solver and form)."""
    if isinstance(measured, profiles.Profile):
        return functools.partial(path_kl, process=process, solver=solver, form=form), measured
    return segments.path_cost, measured


# --------------------------------------------------------------------------------------------------------------------------- the paper's form
class Products(NamedTuple):
    """Inner products of teacher scores s* and student scores s at each of M steps, and the step sizes of the teacher: all Eq. 6 and Eq. 8 need."""

    cross: Float[Array, "steps"]
    own: Float[Array, "steps"]
    target: Float[Array, "steps"]


def paper_loss(learned: Student, products: Products, *, learn_times: bool, teacher_size: float) -> Scalar:
    """Eq. 6, sum_k E |s*_k - Phi_k s_k|^2, or with learned times Eq. 8, sum_k E |(T - eps)/N s*_k - kappa_k s_k|^2, each step over its target."""
    if learn_times:
        factor = (learned.times[:-1] - learned.times[1:]) / teacher_size
    else:
        factor = learned.coefficients
    return jnp.sum((products.target - 2 * factor * products.cross + factor**2 * products.own) / jnp.maximum(products.target, 1e-12))


class Chain(NamedTuple):
    """A teacher's states before each of its steps, (N, B, L), their times (N,), its samples, and the key that drew them (coupled students use it too)."""

    states: Int[Array, "n b l"]
    times: Float[Array, "n"]
    final: Int[Array, "b l"]
    key: PRNGKey


def measure_products(key: PRNGKey, params: Params, learned: Student, teacher: Chain, *, denoiser: Denoiser, process, solver: str, config: LSDConfig) -> Products:
    """Run the student's chain beside the teacher's states at the student's M steps, and take the inner products; 3 M network
    calls, 2 M at the same state."""
    denoise = bind(denoiser, params)
    shape = teacher.states.shape[1:]
    key_start, key_chain = jax.random.split(key)
    start = teacher.states[0]
    if config.relaxed:  # a start within a small Hamming distance of x_T: some sites already hold what the teacher will put there
        start = jnp.where(jax.random.uniform(key_start, shape) < config.relaxed, teacher.final, start)
    if config.noise == "same_state":
        states = teacher.states
    else:
        key_chain = teacher.key if config.noise == "coupled" else key_chain
        options = dict(process=process, solver=solver, form=config.form, given=start, reveal="coupled" if config.noise == "coupled" else "independent", trajectory=True)
        _, after = sampling.sample(key_chain, learned, denoise, shape, **options)
        states = jnp.concatenate([start[None], after[:-1]])

    def scores(x, t):
        log_score = process.log_score(denoise(x, t), x, t)
        elsewhere = 1 - jax.nn.one_hot(x, process.states)
        if isinstance(process, processes.Absorbing):  # of a clean site no score is learned
            elsewhere = elsewhere * process.noised(x)[..., None]
        return jnp.where(elsewhere > 0, log_score if config.form == "log_score" else jnp.exp(log_score), 0.0)

    def one(inputs):
        x_teacher, t_teacher, x_student, t_student = inputs
        target, own = scores(x_teacher, t_teacher), scores(x_student, t_student)
        return Products((target * own).mean(), (own * own).mean(), (target * target).mean())

    return jax.lax.map(one, (teacher.states, teacher.times, states, learned.times[:-1]))


# ---------------------------------------------------------------------------------------------------------------------------------- distilling
def teacher_chain(key: PRNGKey, params: Params, shape: tuple[int, int], *, denoiser: Denoiser, process, solver: str, config: LSDConfig, start: float = 1.0) -> Chain:
    """One teacher sampling run of N steps, shared by all students."""
    times = grids.uniform(config.teacher_steps, start)

    @jax.jit
    def run(key, params):
        options = dict(process=process, solver=solver, reveal="coupled" if config.noise == "coupled" else "independent", trajectory=True)
        _, after = sampling.sample(key, sampling.plain(times), bind(denoiser, params), shape, **options)
        return after

    key_prior = jax.random.split(jax.random.split(key)[0])[0]  # as in sampling.sample
    first = process.prior(key_prior, shape)
    after = run(key, params)
    return Chain(jnp.concatenate([first[None], after[:-1]]), times[:-1], after[-1], key)


def distil(
    nfe: int,
    config: LSDConfig,
    *,
    process,
    solver: str,
    cost: tuple | None = None,
    chain: Chain | None = None,
    params: Params = None,
    denoiser: Denoiser | None = None,
    start: float = 1.0,
    workdir: Any = None,
    progress: bool = False,
) -> Student:
    """Learn a student of `nfe` steps over the grid that is uniform on [0, start].

    path_kl needs `cost`, a pair (function of (student, data), data): see `path_cost`. paper needs `chain` (of teacher_chain), params and denoiser."""
    if config.objective == "path_kl" and solver in solvers.TWO_CALLS:
        raise ValueError(f"distill.objective is 'path_kl' with solver {solver!r}, whose step has no closed law; allowed: objective 'paper', or {', '.join(solvers.ONE_CALL)}")
    times = grids.uniform(nfe, start)
    solver = solvers.canonical(solver, process)
    key = jax.random.key(config.seed)
    fit = functools.partial(train.fit, steps=config.steps, ema=0.0, workdir=workdir, progress=progress, title=f"LSD {nfe}", log_every=100, save_every=10**9)
    # Eq. 8 starts at N / M times its minimiser: with the usual memory of 1,000 steps the first gradients, larger by (N / M)^2, hold Adam back to the end.
    optimiser = optax.adam(optax.cosine_decay_schedule(config.learning_rate, config.steps), b2=0.9 if config.objective == "paper" else 0.999)
    batch = lambda step: np.zeros((1, 1), np.float32)  # the objective's data are frozen: they were measured once

    if config.objective == "path_kl":
        price, data = cost
        task = train.Task(lambda key: initial(times, config.learn_times), lambda learned, key, _, data: (price(student(learned, times), data), {}))
        learned = student(fit(key, task, optimiser, batch, frozen=data).params, times)
        if config.form == "log_score" or isinstance(data, segments.Table):  # a coefficient past the measured ones was not priced
            measured = data.coefficients if isinstance(data, segments.Table) else data.exponents
            learned = learned.replace(coefficients=jnp.clip(learned.coefficients, measured[0], measured[-1]))
        return learned

    index = np.arange(nfe) * config.teacher_steps // nfe
    teacher = chain._replace(states=chain.states[index], times=chain.times[index])
    teacher_size = (start - 0.0) / config.teacher_steps
    learned = initial(times, config.learn_times)
    measure = jax.jit(functools.partial(measure_products, denoiser=denoiser, process=process, solver=solver, config=config))
    as_student = functools.partial(student, times=times, renormalise=config.renormalise and config.learn_times)
    # Eq. 8's own minimiser is about M / N times the interval; renormalising the student's sizes alone cannot move it, so the target's scale goes with it.
    size = teacher_size * (config.teacher_steps / nfe if config.renormalise else 1.0)

    def loss(learned, key, _, products):
        free = student(learned, times, renormalise=False) if config.learn_times else as_student(learned)
        return paper_loss(free, products, learn_times=config.learn_times, teacher_size=size), {}

    for turn in range(config.rounds):
        products = measure(jax.random.fold_in(key, turn), params, as_student(learned), teacher)
        task = train.Task(lambda key: learned, loss)
        learned = fit(key, task, optimiser, batch, frozen=products).params
    return as_student(learned)
