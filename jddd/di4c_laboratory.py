"""Di4C where everything is exact: one-step students of small data by the exact denoiser, their total variation, Theorem 2 along training, and how many
distinct latents the data need."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from matplotlib.figure import Figure
from ml_collections import ConfigDict

from jddd import build, checkpoints, grids, laws, optim, processes, report, runs, sampling, schedules, train
from jddd.distill import di4c, mixtures
from jddd.models import dit, exact
from jddd.types import Denoiser, Params, PRNGKey
from jddd.writers import Stages

NEARLY = schedules.Linear(1e-6)  # alpha(1) > 0, as laws of several steps need, and next to nothing left of the data


@dataclasses.dataclass(frozen=True)
class LaboratoryConfig:
    """rank: of the data 'random', a mixture of so many random products (so its nonnegative rank is at most that); distinct: numbers of distinct latents to
    train students with, 0 for all of [0, 1); chain: N, the teacher's steps in Theorem 2; latents: fixed ones that the law of one step is averaged over (a
    sinusoid of 1000 lambda needs thousands; distinct latents are taken exactly); share: of the uniform law in the data."""

    data: str = "all_equal"
    symbols: int = 3
    sites: int = 4
    rank: int = 3
    share: float = 1e-6
    distinct: tuple = (1, 2, 3, 4, 6, 0)
    chain: int = 8
    latents: int = 4096

    def __post_init__(self):
        if self.data not in ("all_equal", "random"):
            raise ValueError(f"config field report.data is {self.data!r}; allowed: all_equal, random")
        if self.symbols < 2 or self.sites < 2 or self.rank < 1 or (self.symbols + 1) ** self.sites > 1024:
            raise ValueError(f"config fields report.symbols, sites, rank are {self.symbols}, {self.sites}, {self.rank}; allowed: 2 or more, rank 1 or more, at most 1024 states")
        if self.chain < 1 or self.latents < 1:
            raise ValueError(f"config fields report.chain and report.latents are {self.chain}, {self.latents}; allowed: 1 or more")
        if not self.distinct or not all(isinstance(k, int) and k >= 0 for k in self.distinct):
            raise ValueError(f"config field report.distinct is {self.distinct}; allowed: whole numbers of 0 or more")


def random_joint(seed: int, symbols: int, sites: int, rank: int, share: float) -> exact.Joint:
    """A mixture of `rank` random product laws with Dirichlet(0.3) sites, smoothed by `share`."""
    generator = np.random.default_rng(seed)
    weights, factors = generator.dirichlet(np.ones(rank)), generator.dirichlet(np.full(symbols, 0.3), (rank, sites))
    law = exact.Mixture(jnp.asarray(weights), jnp.asarray(factors))
    p = jnp.exp(law.log_likelihood(laws.configurations(symbols, sites)))
    return exact.Joint(jnp.log(exact.smooth(p, share)).reshape((symbols,) * sites))


def fresh_student(key: PRNGKey, config: dit.DiTConfig, length: int) -> Params:
    """Parameters of a student that has no network as its teacher: random numbers where a fresh network has matrices of zeros, for between zeros no
    gradient reaches the latent."""
    params = dit.init(key, config, length)

    def start(path, leaf):
        name = jax.tree_util.keystr(path)
        if leaf.ndim == 2 and not np.any(leaf):
            return jax.random.normal(jax.random.fold_in(key, sum(name.encode())), leaf.shape) * leaf.shape[0] ** -0.5
        return leaf

    return jax.tree_util.tree_map_with_path(start, params)


@functools.partial(jax.jit, static_argnames=("student", "process", "latents"))
def one_step(params: Params, states: Int[Array, "k l"], t, *, student: Denoiser, process, latents: int) -> Float[Array, "k n"]:
    """The student's law of x_0, over S^L states, from each of `states` at time t: the mean over fixed latents of its products."""
    length = states.shape[1]

    def add(total, latent):
        log_p = student(params, states, t, jnp.full(len(states), latent))
        return total + jax.vmap(laws.product)(process.clean(log_p, states)), None

    first = jnp.zeros((len(states), process.states**length))
    return jax.lax.scan(add, first, (jnp.arange(latents) + 0.5) / latents)[0] / latents


class Chain(NamedTuple):
    """The teacher's N uniform steps: their transition matrices (N, n, n), the last of which is its product denoiser, and the law of the state before
    each step and at the end (N + 1, n)."""

    steps: Float[Array, "k n n"]
    laws: Float[Array, "j n"]


def teacher_chain(law: exact.Joint, steps: int, *, process, length: int) -> Chain:
    """The exact denoiser's chain from all masks."""
    numbers = sampling.plain(grids.uniform(steps)).steps()
    everything = jnp.eye(process.states**length)
    matrix = lambda step: jax.vmap(lambda p: laws.step(p, step, law, length, denoiser=exact.denoiser(process), process=process))(everything)
    matrices = jnp.stack([matrix(jax.tree.map(lambda a: a[k], numbers)) for k in range(steps)])
    found = [everything[-1]]
    for step in matrices:
        found.append(found[-1] @ step)
    return Chain(matrices, jnp.stack(found))


def theorem(params: Params, chain: Chain, *, student: Denoiser, process, length: int, latents: int = 64) -> dict[str, float]:
    """Both sides of theorem 2 of Hayakawa et al. 2025 for a student's one step against the teacher's N: TV <= sqrt(L_distil / 2) + sum_n sqrt(L_consis,n / 2),
    losses averaged over the chain's law; in nats, exact but for the mean over `latents` fixed latents."""
    count = len(chain.steps)
    states = laws.configurations(process.states, length)
    own = [one_step(params, states, t, student=student, process=process, latents=latents) for t in grids.uniform(count)[:-1]]

    def average(weight, p, q):
        return float(jnp.maximum(weight @ jax.vmap(laws.kl)(p, jnp.maximum(q, 1e-30)), 0.0))  # products of float32 underflow

    distillation = average(chain.laws[-2], chain.steps[-1], own[-1])
    consistency = [average(chain.laws[k], chain.steps[k] @ own[k + 1], own[k]) for k in range(count - 1)]
    bound = math.sqrt(distillation / 2) + sum(math.sqrt(value / 2) for value in consistency)
    return {"distance": float(laws.total_variation(chain.laws[-1], own[0][-1])), "bound": bound, "distillation": distillation, "consistency": sum(consistency)}


def train_student(law: exact.Joint, distinct: int, settings: di4c.Di4CConfig, model: dit.DiTConfig, sizes: build.TrainConfig, adjust, lab: LaboratoryConfig, *, process, chain: Chain | None, workdir: Path):
    """Parameters of a one-step student with so many distinct latents (0: all of [0, 1)). workdir/curve.jsonl holds, for every sizes.evaluate_every steps,
    its TV to the data and, given a chain, both sides of theorem 2."""
    network = dit.denoiser(model)
    student = mixtures.quantised(network, distinct) if distinct else network
    key_init, key_data, key_train = jax.random.split(jax.random.key(sizes.seed), 3)
    data, masks = jnp.exp(law.log_p).ravel(), jnp.full((1, lab.sites), process.mask_id)

    def measure(state) -> dict[str, float]:
        found = laws.data_law(one_step(state.ema, masks, 1.0, student=student, process=process, latents=distinct or lab.latents)[0], lab.sites, process)
        row = {"step": int(state.step), "tv": float(laws.total_variation(found, data))}
        if chain is not None:
            row |= theorem(state.ema, chain, student=student, process=process, length=lab.sites)
        with open(workdir / "curve.jsonl", "a") as file:  # kept as it comes: a run that was killed goes on with it
            file.write(json.dumps(row) + "\n")
        return {k: v for k, v in row.items() if k != "step"}

    workdir.mkdir(parents=True, exist_ok=True)
    state = train.fit(
        key_train,
        di4c.task(exact.denoiser(process), student, process, settings),
        optim.optimiser(adjust, sizes.steps),
        lambda step: law.sample(jax.random.fold_in(key_data, step), sizes.batch),
        steps=sizes.steps,
        frozen=law,
        initial=fresh_student(key_init, model, lab.sites),
        ema=sizes.ema,
        microbatches=sizes.microbatches,
        log_every=sizes.log_every,
        evaluate=measure,
        evaluate_every=sizes.evaluate_every,
        workdir=workdir,
        save_every=sizes.save_every,
        title=f"student, {distinct or 'all'} latents",
    )
    measure(state)
    return state.ema


def read_curve(file: Path) -> list[dict]:
    """The rows of a curve.jsonl by step, each once: steps since a checkpoint are measured again after a kill."""
    points = {row["step"]: row for row in map(json.loads, file.read_text().splitlines())}
    return [points[step] for step in sorted(points)]


def run(config: ConfigDict, workdir: Path) -> dict:
    """Train a student for each number of latents and write report.html and metrics.json; a run that was killed goes on in the training it was in."""
    stages, workdir = Stages(), Path(workdir)
    lab = build.section(LaboratoryConfig, config.report, "report")
    settings = build.section(di4c.Di4CConfig, config.distill, "distill")
    sizes = build.section(build.TrainConfig, config.train, "train")
    model = build.section(build.ModelConfig, config.model, "model")
    adjust = build.optim(config.optim)
    process = processes.Absorbing(lab.symbols, NEARLY)
    sizes_of = dit.DiTConfig(states=process.states, symbols=lab.symbols, **dataclasses.asdict(model) | {"latent": True})
    law = exact.all_equal(lab.symbols, lab.sites, lab.share) if lab.data == "all_equal" else random_joint(sizes.seed, lab.symbols, lab.sites, lab.rank, lab.share)
    runs.record(workdir, config)
    data = jnp.exp(law.log_p).ravel()
    with stages("the teacher's chain, exactly"):
        chain = teacher_chain(law, lab.chain, process=process, length=lab.sites)
        product = laws.sampler(sampling.plain(jnp.asarray([1.0, 0.0])), law, lab.sites, denoiser=exact.denoiser(process), process=process)
        distance = lambda p: float(laws.total_variation(laws.data_law(p, lab.sites, process), data))
        teacher = {"one step": distance(product), f"{lab.chain} steps": distance(chain.laws[-1])}
    rows, curves = [], {}
    for distinct in lab.distinct:
        name = f"{distinct or 'all'} latents"
        with stages(f"train: {name}"):
            folder = workdir / f"latents_{distinct}"
            if not checkpoints.weight_files(folder / "student")[1].is_file():
                params = train_student(law, distinct, settings, sizes_of, sizes, adjust, lab, process=process, chain=chain if distinct == 0 else None, workdir=folder)
                checkpoints.save_weights(folder / "student", params, {"model": dataclasses.asdict(sizes_of)})
            curves[name] = read_curve(folder / "curve.jsonl")
        rows.append({"latents": name, "TV of one step": curves[name][-1]["tv"], "TV of the product's one step": teacher["one step"], f"TV of the teacher's {lab.chain} steps": teacher[f"{lab.chain} steps"]})
        print(rows[-1])
    result = {"name": config.name, "rows": rows, "curves": curves, "teacher": teacher, "config": json.loads(config.to_json()), "versions": report.versions(), "seconds": stages.seconds}
    (workdir / "metrics.json").write_text(json.dumps(result, indent=1) + "\n")
    parts = [
        report.note("TV: total variation between the exact law of one step's samples and the data. Latents: how many distinct values lambda can take."),
        report.section("One-step students", report.table(rows)),
        report.plots(figures(result), workdir / "plots"),
        report.origin(result),
    ]
    report.page(workdir / "report.html", config.name, parts)
    return {row["latents"]: row["TV of one step"] for row in rows}


def figures(result: dict) -> dict[str, Figure]:
    """TV along training of every student; both sides of theorem 2 along the training of the one with all latents."""
    curve = Figure(figsize=(6.5, 4.2))
    axis = curve.subplots()
    for name, points in result["curves"].items():
        axis.plot([p["step"] for p in points], [p["tv"] for p in points], marker=".", label=name)
    for name, value in result["teacher"].items():
        axis.axhline(value, ls=":", color="black")
        axis.annotate(f"product, {name}", (0.02, value), xycoords=("axes fraction", "data"), fontsize=7, va="top")
    axis.set(xlabel="training step", ylabel="TV to the data", title="one-step students", yscale="log")
    axis.legend(fontsize=7)
    found = {"total variation along training": curve}
    for name, points in result["curves"].items():
        if "bound" in points[0]:
            both = Figure(figsize=(6.5, 4.2))
            axis = both.subplots()
            axis.plot([p["step"] for p in points], [p["bound"] for p in points], marker=".", label="bound: sqrt(L_distil / 2) + sum sqrt(L_consis / 2)")
            axis.plot([p["step"] for p in points], [p["distance"] for p in points], marker=".", label="TV of the student's step and the teacher's chain")
            axis.set(xlabel="training step", title="both sides of Theorem 2", yscale="log")
            axis.legend(fontsize=7)
            found["theorem 2 along training"] = both
    return found
