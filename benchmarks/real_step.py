"""One real step of every paper config at the published sizes, with random weights of the true shapes: seconds and peak memory, each in a process of its own.

    python -m benchmarks.real_step [--only lsd_sedd_small:medium,di4c_sdtt] [--latents 16] [--batch 1] [--rounds 1]
    python -m benchmarks.real_step --depth 1 --length 64          a dry run: the same programs, two minutes

Of an LSD config: what LSD learns from, of an absorbing network its cost profile at 3 of the 33 mask rates, of a uniform one a table of 4 times, on one window; and a
sampler run of NFE 2. Of a student's config: one update of the config's losses, optimiser and average, with --latents latents (Di4C, one after another:
distill.together=false) and --batch rows, in either zone of Di4C. Times exclude compilation: each program runs once before it is timed --rounds times (the median
is printed). Peak memory is the process's largest resident set (getrusage), which on an accelerator is the host's share alone.
"""

from __future__ import annotations

import argparse
import json
import resource
import runpy
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp

from jddd import build, grids, optim, pretrained, processes, rounds, sampling, sharding, train
from jddd.distill import profile, segments

ROOT = Path(__file__).parents[1]
SMALL = {"hidden_size": 768, "n_blocks": 12, "n_heads": 12, "cond_dim": 128, "length": 1024}
MEDIUM = SMALL | {"hidden_size": 1024, "n_blocks": 24, "n_heads": 16}
HYDRA = {"graph": {"type": "absorb"}, "noise": {"type": "loglinear"}, "tokens": 50257}
HUB = {"hidden_dim": 768, "n_blocks": 12, "n_heads": 12, "cond_dim": 128, "model_length": 1024, "vocab_size": 50258}
SEDD, UNIFORM = HYDRA | {"model": SMALL | {"scale_by_sigma": True}}, HYDRA | {"graph": {"type": "uniform"}, "noise": {"type": "geometric"}, "model": SMALL | {"scale_by_sigma": False}}
TEACHERS = {  # 'config:variant': (family, config.json); a variant whose sizes are another's is left out
    "lsd_sedd_small": ("sedd", SEDD),
    "lsd_sedd_small:medium": ("sedd", SEDD | {"model": MEDIUM | {"scale_by_sigma": True}}),
    "lsd_sedd_small:uniform": ("sedd", UNIFORM),
    "lsd_radd": ("radd", HYDRA | {"model": SMALL}),
    "lsd_duo": ("duo", HUB | {"model_type": "duo"}),
    "di4c_sdtt": ("sdtt", HYDRA | {"graph": None, "parameterization": {"name": "multi-round-sdtt"}, "model": SMALL}),
    "sdtt_mdlm": ("mdlm", HUB | {"model_type": "mdlm", "time_conditioning": False}),
}  # fmt: skip


def teacher(name: str, depth: int, length: int) -> pretrained.Pretrained:
    """Random weights of a config's teacher; depth, length: in the place of the true ones where above 0. What starts at 0 (modulations, head) is drawn too."""
    family, settings = TEACHERS[name]
    change = lambda sizes, keys: sizes | {key: value for key, value in zip(keys, (depth, length)) if value}
    settings = settings | {"model": change(settings["model"], ("n_blocks", "length"))} if "model" in settings else change(settings, ("n_blocks", "model_length"))
    found = pretrained.fresh(jax.random.key(0), settings, family)
    draw = jax.jit(lambda leaf, key: leaf + 0.02 * jax.random.normal(key, leaf.shape), donate_argnums=0)
    leaves, tree = jax.tree.flatten(found.params)
    params = tree.unflatten([draw(leaf, jax.random.fold_in(jax.random.key(1), i)) if leaf.ndim > 1 else leaf for i, leaf in enumerate(leaves)])
    return found._replace(params=params)


def timed(run: Callable[[], object], repeats: int) -> float:
    """Median seconds of `repeats` calls after one that compiles."""
    jax.block_until_ready(run())
    seconds = []
    for _ in range(repeats):
        begin = time.perf_counter()
        jax.block_until_ready(run())
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds)


def sample(found: pretrained.Pretrained, repeats: int) -> dict:
    """A sampler run of NFE 2, one row, on the skipping path where there is one."""
    run = sampling.sampler(found.denoiser, found.process, (1, found[1].length), chunk=-1)
    return {"sampler, NFE 2": timed(lambda: run(jax.random.key(2), found.params, sampling.plain(grids.uniform(2))), repeats)}


def costs(found: pretrained.Pretrained, repeats: int) -> dict:
    """What LSD's objective is measured from, on one window."""
    key, common = jax.random.key(3), dict(denoiser=found.denoiser, process=found.process)
    x_0 = jax.random.randint(key, (1, found[1].length), 0, found.process.symbols)
    if isinstance(found.process, processes.Absorbing):
        measure = lambda: profile.measure(key, found.params, x_0, profile.default_rates(3), batch=1, **common)
        return {"cost profile, 3 rates": timed(measure, repeats)}
    times, ones = grids.uniform(3), jnp.ones(1)
    return {"cost table, 4 times": timed(lambda: segments.measure(key, found.params, x_0, times, ones, solver="euler", form="score", **common), repeats)}


def update(found: pretrained.Pretrained, name: str, latents: int, batch: int, repeats: int) -> dict:
    """One update of the student of a config, of Di4C in the far zone and in the near zone."""
    config = runpy.run_path(str(ROOT / "configs" / f"{name}.py"))["get_config"]("")
    zones = {"update": {}}
    if config.method == "di4c":
        config.distill.latents, config.distill.together = latents, False
        zones = {f"update, {latents} latents, consistency": {"near_share": 0.0}, f"update, {latents} latents, distillation": {"near_share": 1.0}}
    network = rounds.student_network(found, config.method)[1]
    seconds = {}
    for zone, fields in zones.items():
        config.distill.update(fields)
        settings = build.section(rounds.METHODS[config.method].config, config.distill, "distill")
        task = rounds.METHODS[config.method].task(found[1].denoiser, network.denoiser, network.process, settings)
        optimiser = optim.optimiser(build.optim(config.optim), config.train.steps)
        initial = rounds.dit.from_teacher(network.init(jax.random.key(4)), found.params)
        begin = jax.jit(lambda key, initial: train.initial_state(key, initial, task=task, optimiser=optimiser))
        step = jax.jit(lambda state, key, x, frozen: train.train_step(state, key, x, frozen, task=task, optimiser=optimiser, ema=0.9999, microbatches=1, on=sharding.mesh(devices=jax.devices()[:1])), donate_argnums=0)
        x_0 = jax.random.randint(jax.random.key(5), (batch, network.length), 0, network.process.symbols)
        state = [begin(jax.random.key(6), initial)]
        del initial

        def run():
            state[0], metrics = step(state[0], jax.random.key(7), x_0, found.params)
            return metrics

        seconds[f"{zone}, {batch} rows"] = timed(run, repeats)
        state.clear()
    return seconds


def one(options: argparse.Namespace) -> dict:
    """The figures of the one config named in options.only, in this process."""
    name = options.only
    found = teacher(name, options.depth, options.length)
    parts = {"parameters": sum(leaf.size for leaf in jax.tree.leaves(found.params))}
    steps = [lambda: costs(found, options.rounds)] if name.startswith("lsd") else [lambda: update(found, name, options.latents, options.batch, options.rounds)]
    for step in [lambda: sample(found, options.rounds), *steps]:
        parts |= step()
        parts["peak GiB after it" if "peak GiB after sampling" in parts else "peak GiB after sampling"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return parts


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.real_step", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(TEACHERS), help="configs, separated by commas (default: %(default)s)")
    for field, default, text in (("depth", 0, "layers, 0: the published ones"), ("length", 0, "tokens, 0: 1024"), ("latents", 16, "of Di4C"), ("batch", 1, "rows of an update"), ("rounds", 1, "timed runs")):
        parser.add_argument(f"--{field}", type=int, default=default, help=f"{text} (default: %(default)s)")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    names = options.only.split(",")
    if unknown := [name for name in names if name not in TEACHERS]:
        sys.exit(f"error: --only has {unknown}; allowed: {', '.join(TEACHERS)}")
    if options.here:
        print(json.dumps(one(options)))
        return
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}, {time.strftime('%Y-%m-%d')}, {vars(options)}")
    for name in names:
        numbers = [part for field in ("depth", "length", "latents", "batch", "rounds") for part in (f"--{field}", str(getattr(options, field)))]
        done = subprocess.run([sys.executable, "-m", "benchmarks.real_step", "--here", "--only", name, *numbers], cwd=ROOT, capture_output=True, text=True)
        if done.returncode:
            print(f"{name:24} failed with {done.returncode} ({'killed, most likely for memory' if done.returncode < 0 else done.stderr.strip().splitlines()[-1][:300]})", flush=True)
            continue
        found = json.loads(done.stdout.splitlines()[-1])
        shown = [f"{key} {value:,}" if isinstance(value, int) else f"{key} {value:.2f}" + ("" if "GiB" in key else " s") for key, value in found.items()]
        print(f"{name:24} " + "; ".join(shown), flush=True)


if __name__ == "__main__":
    main()
