"""Sampler time over N network calls: the plain path against the skipping one.

    python -m jddd.benchmark [--length=1024] [--batch=1] [--nfe=16] [--rounds=3] [--vocabulary 27 50257] [--mixture]

The networks are DiTs with random weights. One network call is the trunk and the head at every position, without a draw; the sampler adds the draws
and, on the skipping path, leaves out the head and the draw wherever no symbol can be revealed. The three are timed in turn, round by round, so that a
noisy machine disturbs all of them alike; ratios are medians over rounds.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jddd import grids, processes, sampling, schedules
from jddd.distill import di4c
from jddd.models import dit


def measure(vocabulary: int, *, length: int, batch: int, nfe: int, rounds: int, width: int, depth: int) -> dict[str, float]:
    """Medians over rounds: seconds of N calls, of the plain and of the skipping sampler, and their ratios taken round by round."""
    config = dit.DiTConfig(states=vocabulary + 1, symbols=vocabulary, width=width, depth=depth, heads=max(1, width // 64))
    params = jax.jit(dit.init, static_argnums=(1, 2))(jax.random.key(0), config, length)
    denoiser, process = dit.denoiser(config), processes.Absorbing(vocabulary)
    student, key, shape = sampling.plain(grids.uniform(nfe)), jax.random.key(1), (batch, length)

    @jax.jit
    def calls(params):
        def call(carry, x):
            return carry + denoiser(params, x, jnp.ones(())).sum(), None

        return jax.lax.scan(call, jnp.zeros(()), jnp.zeros((nfe, *shape), jnp.int32) + jnp.arange(nfe)[:, None, None] % 2)[0]

    plain, skipping = (sampling.sampler(denoiser, process, shape, chunk=chunk) for chunk in (0, -1))
    timed = {"calls": lambda: calls(params), "plain": lambda: plain(key, params, student), "skipping": lambda: skipping(key, params, student)}
    seconds = _paired(timed, rounds)
    ratio = lambda a, b: statistics.median(x / y for x, y in zip(seconds[a], seconds[b]))
    found = {name: statistics.median(values) for name, values in seconds.items()}
    return found | {"plain / calls": ratio("plain", "calls"), "skipping / calls": ratio("skipping", "calls"), "plain / skipping": ratio("plain", "skipping")}


def _paired(timed: dict[str, Callable], rounds: int) -> dict[str, list[float]]:
    """Seconds of each, in turn, round by round, after one call that compiles."""
    seconds: dict[str, list[float]] = {name: [] for name in timed}
    for run in timed.values():
        jax.block_until_ready(run())
    for _ in range(rounds):
        for name, run in timed.items():
            begin = time.perf_counter()
            jax.block_until_ready(run())
            seconds[name].append(time.perf_counter() - begin)
    return seconds


def measure_mixture(vocabulary: int, *, length: int, batch: int, nfe: int, rounds: int, width: int, depth: int, latents: int = 8, rows: int = 4) -> dict[str, float]:
    """Di4C's costs: sampler time of a mixture student over its teacher's at equal NFE; and one training step (rows, far zone, all targets included) over
    `latents` times the forward and backward pass of the bare network on as many rows, with both throughputs in tokens a second of data."""
    sizes = dict(states=vocabulary + 1, symbols=vocabulary, width=width, depth=depth, heads=max(1, width // 64))
    configs = {"teacher": dit.DiTConfig(**sizes), "mixture": dit.DiTConfig(**sizes, latent=True)}
    params = {name: jax.jit(dit.init, static_argnums=(1, 2))(jax.random.key(0), config, length) for name, config in configs.items()}
    process, student, key = processes.Absorbing(vocabulary, schedules.Linear(1e-3)), sampling.plain(grids.uniform(nfe)), jax.random.key(1)
    networks = {name: dit.denoiser(config) for name, config in configs.items()}
    runs = {name: sampling.sampler(networks[name], process, (batch, length)) for name in configs}
    seconds = _paired({name: lambda name=name: runs[name](key, params[name], student) for name in configs}, rounds)
    settings = di4c.Di4CConfig(latents=latents, near_share=0.0)
    task = di4c.task(networks["teacher"], networks["mixture"], process, settings)
    x_0 = jax.random.randint(key, (rows, length), 0, vocabulary)
    train = jax.jit(lambda params, teacher: jax.value_and_grad(task.loss, has_aux=True)(params, key, x_0, teacher))
    bare = jax.jit(jax.grad(lambda params, x: networks["teacher"](params, x, jnp.ones(())).mean()))
    trained = _paired({"step": lambda: train(params["mixture"], params["teacher"]), "bare": lambda: bare(params["teacher"], x_0)}, rounds)
    ratio = lambda a, b: statistics.median(x / y for x, y in zip(a, b))
    step, pass_ = statistics.median(trained["step"]), statistics.median(trained["bare"])
    return {
        "mixture / teacher": ratio(seconds["mixture"], seconds["teacher"]), f"training step / ({latents} x forward-backward)": ratio(trained["step"], trained["bare"]) / latents,
        "tokens/s of training": rows * length / step, f"tokens/s of {latents} x forward-backward": rows * length / pass_ / latents,
    }  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m jddd.benchmark", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocabulary", type=int, nargs="+", default=[27, 50_257])
    for name, default in (("length", 1024), ("batch", 1), ("nfe", 16), ("rounds", 3), ("width", 256), ("depth", 4)):
        parser.add_argument(f"--{name}", type=int, default=default, help="default: %(default)s")
    parser.add_argument("--mixture", action="store_true", help="Di4C's costs instead: latency of a mixture over its teacher's, and of a training step")
    options = vars(parser.parse_args(arguments))
    vocabularies = options.pop("vocabulary")
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}, {options}")
    if options.pop("mixture"):
        for vocabulary in vocabularies:
            print(f"vocabulary {vocabulary:6d}: " + ", ".join(f"{name} {value:.3f}" for name, value in measure_mixture(vocabulary, **options).items()), flush=True)
        return
    for vocabulary in vocabularies:
        found = measure(vocabulary, **options)
        print(f"vocabulary {vocabulary:6d}: " + ", ".join(f"{name} {value:.3f}{'' if '/' in name else ' s'}" for name, value in found.items()), flush=True)


if __name__ == "__main__":
    main()
