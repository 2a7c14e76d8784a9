"""Samplers at the size of the published text models against PyTorch, on the same weights (random, of the true shapes), paired in one run.

    python -m benchmarks.published --nfe 8 --rounds 3 [--depth 12] [--length 1024] [--batch 1]

Needs torch (development only): pip install torch==2.13.0. Five things are timed in turn, round by round: N bare network calls in JAX and in torch (trunk and
head at every site, no draw), jddd's sampler on the plain and on the skipping path, and the usual PyTorch sampler (benchmarks/torch_ddit.py). Ratios are
medians over rounds of the ratio within a round. Before that the two networks' logits are compared. Memory is XLA's own account of the compiled sampler.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
import torch

from benchmarks import torch_ddit
from jddd import grids, pretrained, sampling
from jddd.pretrained import layouts

SMALL = {"model_type": "mdlm", "hidden_dim": 768, "n_blocks": 12, "n_heads": 12, "cond_dim": 128, "model_length": 1024, "vocab_size": 50258, "time_conditioning": False}


def randomised(params, key):
    """The parameters with those that start at 0 (modulations, head) drawn too: zeros would make the blocks the identity."""
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(key, len(leaves))
    return tree.unflatten([x + 0.02 * jax.random.normal(k, x.shape) if x.ndim > 1 else x for x, k in zip(leaves, keys)])


def measure(nfe: int, rounds: int, depth: int, length: int, batch: int, threads: int) -> dict:
    torch.set_num_threads(threads)
    found = pretrained.fresh(jax.random.key(0), SMALL | {"n_blocks": depth, "model_length": length})
    params = jax.jit(randomised)(found.params, jax.random.key(1))
    config, process, shape = found[1].dit, found.process, (batch, length)
    weights = {name: torch.from_numpy(np.array(value)) for name, value in layouts.from_params(params, config, "").items()}
    network = torch_ddit.TorchDDiT(weights, depth, config.heads)
    tokens = np.random.default_rng(0).integers(0, config.states, shape)
    difference = np.abs(np.asarray(found[1].raw(params, jnp.asarray(tokens), 0.0)) - network(torch.from_numpy(tokens)).numpy()).max()

    raw = found[1].raw
    student, key = sampling.plain(grids.uniform(nfe)), jax.random.key(2)
    plain, skipping = (sampling.sampler(found.denoiser, process, shape, chunk=chunk) for chunk in (0, -1))
    temporary = {name: run.lower(key, params, student).compile().memory_analysis().temp_size_in_bytes / 2**20 for name, run in {"plain": plain, "skipping": skipping}.items()}
    generator = torch.Generator().manual_seed(0)
    masks = jnp.full(shape, process.mask_id)
    timed = {
        "bare": lambda: [jax.block_until_ready(raw(params, masks, 0.0)) for _ in range(nfe)],
        "torch bare": lambda: [network(torch.from_numpy(tokens)) for _ in range(nfe)],
        "plain": lambda: jax.block_until_ready(plain(key, params, student)),
        "skipping": lambda: jax.block_until_ready(skipping(key, params, student)),
        "torch": lambda: torch_ddit.sample(network, batch, length, nfe, process.mask_id, generator),
    }
    for run in timed.values():
        run()  # compiles
    seconds = {name: [] for name in timed}
    for _ in range(rounds):
        for name, run in timed.items():
            begin = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - begin)
    ratio = lambda a, b: statistics.median(x / y for x, y in zip(seconds[a], seconds[b]))
    pairs = [("plain", "bare"), ("skipping", "bare"), ("bare", "torch bare"), ("torch", "torch bare"), ("torch", "plain"), ("torch", "skipping")]
    figures = {f"seconds, {name}": statistics.median(values) for name, values in seconds.items()} | {f"{a} / {b}": ratio(a, b) for a, b in pairs}
    memory = {f"MiB beside the weights, {name}": size for name, size in temporary.items()} | {"MiB of one (B, L, V)": batch * length * config.outputs * 4 / 2**20}
    return {"largest difference of logits": float(difference)} | figures | memory | {"tokens/s, skipping": batch * length / statistics.median(seconds["skipping"])}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.published", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("nfe", 8), ("rounds", 3), ("depth", 12), ("length", 1024), ("batch", 1), ("threads", 2)):
        parser.add_argument(f"--{name}", type=int, default=default, help="default: %(default)s")
    options = vars(parser.parse_args())
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}, torch {torch.__version__}, {time.strftime('%Y-%m-%d')}, {options}")
    print(json.dumps({name: float(f"{value:.4g}") for name, value in measure(**options).items()}, indent=1))


if __name__ == "__main__":
    main()
