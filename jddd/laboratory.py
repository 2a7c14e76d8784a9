"""What few-step samplers can and cannot do, in exact numbers: small data of known law (jddd.models.exact), exact laws of samplers (jddd.laws).

    python -m jddd.laboratory [TABLE ...] [--out=DIR]     prints the tables as Markdown, all by default, and writes their plots to DIR

Each function gives the rows of a table and needs float64 (jax.enable_x64); colabs/laboratory.ipynb walks through them. Only JYS's search draws noise.
"""

from __future__ import annotations

import argparse
import functools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from jddd import grids, laws, processes, remasking, sampling, schedules, solvers
from jddd.distill import jys, lsd, profile
from jddd.models import exact

Rows = list[dict[str, Any]]
NEARLY = schedules.Linear(1e-10)  # alpha(1) > 0, as solvers of two calls need, and nothing left of the data
SOLVERS = ("euler", "tweedie", "tau_leaping", "predictor_corrector", "theta_rk2", "theta_trapezoidal")


def chain(symbols: int, length: int, stay: float) -> exact.Joint:
    """A Markov chain that stays, moves on to the next symbol or, with probability 0.1, goes anywhere; it starts at low symbols more often."""
    first = np.arange(symbols, 0, -1) / np.arange(symbols + 1).sum()
    rows = stay * np.eye(symbols) + (0.9 - stay) * np.roll(np.eye(symbols), 1, 1) + 0.1 / symbols
    law = exact.MarkovChain(jnp.asarray(first), jnp.asarray(rows))
    return exact.Joint(law.log_likelihood(laws.configurations(symbols, length)).reshape((symbols,) * length))


def output(law: exact.Joint | exact.Mixture, shape: tuple[int, int], student: sampling.Student, schedule=NEARLY, **options) -> jax.Array:
    """The law over V^L, shape (V, L), of an absorbing sampler's samples with the exact denoiser."""
    process = processes.Absorbing(shape[0], schedule)
    return laws.data_law(laws.sampler(student, law, shape[1], denoiser=exact.denoiser(process), process=process, **options), shape[1], process)


def bits(p: jax.Array, q: jax.Array) -> float:
    """Cross-entropy of q under samples of p in bits; p's entropy for q = p."""
    return float(-jnp.where(p > 0, p * jnp.log2(jnp.where(p > 0, q, 1.0)), 0.0).sum())


def error(p: jax.Array, law: exact.Joint) -> float:
    """TV to the data."""
    return float(laws.total_variation(p, jnp.exp(law.log_p).ravel()))


def copy_law(counts: Sequence[int] = (1, 2, 4, 8, 16, 32, 64)) -> Rows:
    """N uniform steps on sites that are always equal: TV is 1 / (2N) for two binary sites, (1 - 1 / (9N)) / N for three of three symbols."""
    rows = []
    for n in counts:
        two, three = (error(output(law := exact.all_equal(d, d, 1e-14), (d, d), sampling.plain(grids.uniform(n))), law) for d in (2, 3))
        rows.append({"N": n, "TV, 2 sites": two, "2N TV": 2 * n * two, "TV, 3 sites": three, "N TV": n * three})
    return rows


def chance_of_all_equal(t, s, symbols: int, sites: int):
    """A step's part of P(correct) = E[S^(1 - K)] on all-equal data, from mask rate t to s: K >= 1 sites are revealed, the first of all."""
    return sum(math.comb(sites, k) * (t - s) ** k * s ** (sites - k) * float(symbols) ** (1 - k) for k in range(1, sites + 1))


def best_times(steps: int, symbols: int, sites: int, resolution: int = 256) -> np.ndarray:
    """The grid of largest P(correct) on all-equal data, by dynamic programming: no schedule does better."""
    fine = np.linspace(1, 0, resolution + 1)
    return fine[grids.dynamic_programme(-chance_of_all_equal(fine[:, None], fine[None], symbols, sites), steps)[0]]


@functools.cache
def students(steps: int, windows: int = 512) -> dict[str, sampling.Student]:
    """Samplers of all-equal data, 4 sites of 3 symbols, by grid; steps: a power of two (JYS). The path KL is exact: CE(m) = m^(D - 1) log S, as a site is
    unknown while all others are masked."""
    symbols, sites = 3, 4
    law, process, rates = exact.all_equal(symbols, sites, 1e-12), processes.Absorbing(symbols, NEARLY), jnp.linspace(0.0, 1.0, 257)
    log_p = -(rates[:, None] ** (sites - 1)) * math.log(symbols)
    measured = profile.Profile(rates, jnp.ones(1), log_p, jnp.zeros((len(rates), 1, 1)), jnp.ones(log_p.shape, bool))
    search = functools.partial(jys.optimise_times, jax.random.key(1), law, law.sample(jax.random.key(0), windows), steps)
    found = {"uniform": grids.uniform(steps), "cosine": grids.cosine(steps), "JYS": search(denoiser=exact.denoiser(process), process=process, batch=windows)}
    found |= {"best on path KL": profile.optimal_rates(measured, steps)[0], "best on P(correct)": best_times(steps, symbols, sites)}
    cost = lsd.path_cost(measured, process=process, solver="tweedie", form="score")
    learned = lsd.distil(steps, lsd.LSDConfig(), process=process, solver="tweedie", cost=cost)
    return {name: sampling.plain(times) for name, times in found.items()} | {"LSD+ on path KL": learned}


def all_equal(counts: Sequence[int] = (2, 4, 8, 16)) -> Rows:
    """P(correct), which is 1 - TV, of the `students` of each NFE."""
    law = exact.all_equal(3, 4, 1e-12)
    chance = lambda student: 1 - error(output(law, (3, 4), student), law)
    return [{"grid": name} | {f"NFE {n}": chance(students(n)[name]) for n in counts} for name in students(counts[0])]


def correlations(counts: Sequence[int] = (2, 4, 8, 16), size: int = 3) -> Rows:
    """All-equal data, D = S: product laws, the best of all grids at more steps, and a mixture of S products drawn in one step."""
    data, shape, once = exact.all_equal(size, size, 1e-14), (size, size), sampling.plain(grids.uniform(1))
    part = lambda symbol: exact.Mixture(jnp.ones(1), exact.smooth(jax.nn.one_hot(jnp.full((1, size), symbol), size), 1e-14))
    found = {("product of the marginals: one step of any sampler", 1): output(data, shape, once)}
    # The overlap sum_s min(prod_d p_ds, 1/S) is largest with equal sites (AM-GM), then at a corner: one symbol at S^(-1/D), one with the rest.
    cap = size ** (-1 / size)
    found["the product law nearest in TV", 1] = laws.product(jnp.broadcast_to(jnp.asarray([cap, 1 - cap] + [0.0] * (size - 2)), shape))
    found |= {("best of all grids", n): output(data, shape, sampling.plain(best_times(n, size, size))) for n in counts}
    found[f"mixture of {size} products", 1] = sum(output(part(symbol), shape, once) for symbol in range(size)) / size
    return [{"sampler": name, "NFE": n, "TV": error(p, data), "entropy, bits": bits(p, p)} for (name, n), p in found.items()]


def sharpening(values: Sequence[float] = (0.5, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3, 1.5, 2.0), steps: int = 8) -> Rows:
    """A chain of 5 sites and 3 symbols: bits a site under the true law (log2 of the perplexity that a perfect judge finds), entropy of the samples, TV."""
    law, plain = chain(3, 5, 0.7), sampling.plain(grids.uniform(steps))
    run = functools.partial(output, law, (3, 5), schedule=schedules.Linear(1e-3))
    found = {("temperature 1/c", c): run(plain.replace(temperatures=plain.temperatures / c)) for c in values}
    found |= {("log-score coefficient c", c): run(plain.replace(coefficients=plain.coefficients * c), form="log_score") for c in values}
    found |= {(f"plain, NFE {8 * steps}", 1.0): run(sampling.plain(grids.uniform(8 * steps))), ("data", 1.0): (q := jnp.exp(law.log_p).ravel())}
    return [{"sampler": name, "c": c, "bits a site": bits(p, q) / 5, "entropy, bits a site": bits(p, p) / 5, "TV": error(p, law)} for (name, c), p in found.items()]


def convergence(counts: Sequence[int] = (4, 8, 16, 32), names: Sequence[str] = SOLVERS, start: float = 0.8, end: float = 0.05) -> Rows:
    """Uniform process, 3 sites of 3 symbols: TV at time `end`, from the exact law at `start`; slope of log TV against log N between the last two N."""
    draw = np.exp(0.2 * np.random.default_rng(0).normal(size=(3, 3, 3)))
    law, process = exact.Joint(jnp.log(jnp.asarray(draw / draw.sum()))), processes.Uniform(3, schedules.Linear(1e-3))
    first, last = (laws.marginal(jnp.exp(law.log_p).ravel(), 3, t, process) for t in (start, end))
    steps = lambda n: sampling.plain(jnp.linspace(start, end, n + 1)).steps()._replace(last=np.zeros(n, bool))
    options = dict(denoiser=exact.denoiser(process), process=process)
    distance = lambda n, solver: float(laws.total_variation(laws.propagate(first, steps(n), law, 3, solver=solver, **options), last))
    rows = [{"solver": solver, "calls a step": solvers.calls(solver, 2) - 1} | {f"N = {n}": distance(n, solver) for n in counts} for solver in names]
    slope = lambda row: math.log(row[f"N = {counts[-1]}"] / row[f"N = {counts[-2]}"]) / math.log(counts[-1] / counts[-2])
    return [row | {"slope": slope(row)} for row in rows]


def every_solver(budgets: Sequence[int] = (3, 7), names: Sequence[str] = SOLVERS) -> Rows:
    """A chain of 5 binary sites, absorbing process: TV at equal network calls (odd, so that solvers of two calls can spend them), and ReMDM."""
    law, process = chain(2, 5, 0.85), processes.Absorbing(2, NEARLY)
    grid = lambda solver, calls: sampling.plain(grids.uniform(calls if solver in solvers.ONE_CALL else (calls + 1) // 2))
    remasked = lambda student: student.replace(remasks=remasking.shares(student.times, process, "rescaled", 0.5))
    rows = [{"solver": s} | {f"NFE {n}": error(output(law, (2, 5), grid(s, n), solver=s), law) for n in budgets} for s in names]
    return [*rows, {"solver": "tweedie, ReMDM rescaled 0.5"} | {f"NFE {n}": error(output(law, (2, 5), remasked(grid("tweedie", n))), law) for n in budgets}]


def draw(*panels: tuple[dict[str, tuple], dict[str, Any]]) -> Figure:
    """One panel for each (curves: label -> (x, y, format), settings of the axis); an axis with `xticks` is logarithmic in x."""
    figure = Figure(figsize=(4.6 * len(panels), 3.6), layout="constrained")
    for axis, (curves, settings) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels):
        for label, (x, y, form) in curves.items():
            axis.plot(x, y, form, label=label, markersize=4)
        if "xticks" in settings:
            axis.set_xscale("log")
            axis.minorticks_off()
            settings = settings | {"xticklabels": settings["xticks"]}
        axis.set(**settings)
        axis.legend(fontsize=7)
    return figure


def plot_copy_law(rows: Rows) -> Figure:
    n = np.array([r["N"] for r in rows])
    curves = {name: (n, [r[name] for r in rows], "o-") for name in ("TV, 2 sites", "TV, 3 sites")}
    return draw((curves | {"1 / (2N)": (n, 0.5 / n, "k:"), "1 / N": (n, 1 / n, "k--")}, dict(xticks=n, yscale="log", xlabel="N, uniform steps", ylabel="total variation")))


def plot_schedules(rows: Rows) -> Figure:
    n = [int(k[4:]) for k in rows[0] if k.startswith("NFE ")]
    left = lambda c, t: np.cumprod([1.0, *(1 - c[:-1] * (1 - t[1:-1] / t[:-2])), 0.0])
    rates = {name: (np.arange(n[-1] + 1) / n[-1], left(np.asarray(s.coefficients), np.asarray(s.times)), ".-") for name, s in students(n[-1]).items()}
    errors = {r["grid"]: (n, [(1 - r[f"NFE {k}"]) / (1 - rows[0][f"NFE {k}"]) for k in n], "o-") for r in rows}
    return draw((rates, dict(xlabel=f"step / M, M = {n[-1]}", ylabel="mask rate")), (errors, dict(xticks=n, xlabel="NFE", ylabel="total variation / that of uniform")))


def plot_sharpening(rows: Rows) -> Figure:
    lines = {name: [r for r in rows if r["sampler"] == name] for name in ("temperature 1/c", "log-score coefficient c")}
    curve = lambda key: {name: ([r["c"] for r in points], [r[key] for r in points], "o-") for name, points in lines.items()}
    level = lambda key: {"data": ([0.5, 2.0], [rows[-1][key]] * 2, "k--")}
    return draw(*((curve(key) | level(key), dict(xlabel="c", ylabel=key)) for key in ("bits a site", "entropy, bits a site", "TV")))


def plot_convergence(rows: Rows) -> Figure:
    n = np.array([int(k[4:]) for k in rows[0] if k.startswith("N = ")])
    curves = {f"{r['solver']}, slope {r['slope']:.2f}": (n, [r[f"N = {k}"] for k in n], "o-") for r in rows}
    return draw((curves, dict(xticks=n, yscale="log", xlabel="N, steps", ylabel="total variation")))


TABLES = {"copy_law": (copy_law, plot_copy_law), "schedules": (all_equal, plot_schedules), "correlations": (correlations, None), "sharpening": (sharpening, plot_sharpening)}
TABLES |= {"convergence": (convergence, plot_convergence), "every_solver": (every_solver, None)}


def markdown(rows: Rows) -> str:
    cell = lambda value: f"{value:.4g}" if isinstance(value, float) else str(value)
    return "\n".join(["| " + " | ".join(rows[0]) + " |", "|---" * len(rows[0]) + "|", *("| " + " | ".join(map(cell, row.values())) + " |" for row in rows)])


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m jddd.laboratory", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="*", metavar="TABLE", help=", ".join(TABLES))
    parser.add_argument("--out", type=Path, help="folder for TABLE.png")
    options = parser.parse_args(arguments)
    if unknown := set(options.tables) - set(TABLES):
        parser.error(f"no table {', '.join(sorted(unknown))}; allowed: {', '.join(TABLES)}")
    for name in options.tables or TABLES:
        make, plot = TABLES[name]
        with jax.enable_x64(True):
            rows = make()
        print(f"## {name}\n\n{markdown(rows)}\n", flush=True)
        if options.out and plot:
            options.out.mkdir(parents=True, exist_ok=True)
            plot(rows).savefig(options.out / f"{name}.png", dpi=75, pil_kwargs={"optimize": True})


if __name__ == "__main__":
    main()
