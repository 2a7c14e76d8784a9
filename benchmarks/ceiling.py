"""What any mixture of M products could gain in a sampler's first step, where all sites are masked and a denoiser says one law for all rows.

  python -m benchmarks.ceiling --data molecules --nfe 4 8

M products over the sites are fitted to data by gradient, with no network between: the likelihood of what a first step of 1/NFE reveals, independently or
spread, over that of one product, in bits a sequence of held-out rows. No Di4C student with M latents can gain more there, however long it is trained (but for
the optimiser's failings); `code_lengths` in the metrics.json of a comparison say what all steps of a student gain. One to two minutes on two CPU cores.
"""

from __future__ import annotations

import argparse
import math

import jax
import jax.numpy as jnp
import optax
from tqdm import tqdm

from jddd import build, processes, schedules
from jddd.distill import di4c

DATA = {
    "molecules": build.DataConfig(name="molecules", tokenizer="smiles", length=58),
    "text": build.DataConfig(),
    "countdown": build.DataConfig(name="countdown", tokenizer="numbers:32", length=256),
}


def code_length(logits, x, counted):
    """-log mean_j prod_d p_j,d over the counted sites of rows x (B, L) in nats, (B,), for products of logits (M, L, V)."""
    log_p = jax.nn.log_softmax(logits, -1)
    points = jax.vmap(lambda row: jnp.take_along_axis(log_p, row[None, :, None], -1)[..., 0])(x)
    return jnp.log(len(logits)) - jax.nn.logsumexp((points * counted[:, None]).sum(-1), 1)


def fit(train, test, symbols: int, count: int, step: float, spread: bool, *, steps: int, batch: int, rate: float = 0.1) -> float:
    """The code length in bits a sequence of held-out rows under the best mixture of `count` products that Adam finds."""
    key, process = jax.random.key(count), processes.Absorbing(symbols, schedules.Linear(eps=0.0))
    length = test.shape[1]
    first = lambda key, x: di4c.step_of(key, x, jnp.ones(()), jnp.asarray(step), process, "spread" if spread else "independent")[1]
    start = jnp.log(jax.nn.one_hot(train.windows(4096), symbols).mean(0) + 1e-5)
    logits = start + (count > 1) * 0.3 * jax.random.normal(key, (count, length, symbols))
    optimiser = optax.adam(optax.cosine_decay_schedule(rate, steps))

    @jax.jit
    def update(logits, state, x, key):
        gradient = jax.grad(lambda logits: code_length(logits, x, first(key, x)).mean())(logits)
        updates, state = optimiser.update(gradient, state)
        return optax.apply_updates(logits, updates), state

    state = optimiser.init(logits)
    for i in tqdm(range(steps), desc=f"{count} products, step {step:g}{', spread' if spread else ''}", leave=False):
        logits, state = update(logits, state, jnp.asarray(train.batch(i, batch, 3)), jax.random.fold_in(key, i))
    parts = [code_length(logits, x, first(jax.random.key(i), x)).mean() for i, x in enumerate(jnp.split(jnp.asarray(test), 16))]
    return float(jnp.stack(parts).mean()) / math.log(2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=list(DATA), default="molecules")
    parser.add_argument("--nfe", type=int, nargs="+", default=[4, 8], help="network calls of the sampler whose first step it is")
    parser.add_argument("--products", type=int, nargs="+", default=[16, 64, 256])
    parser.add_argument("--steps", type=int, default=1200, help="updates of a fit")
    parser.add_argument("--batch", type=int, default=256, help="rows of data an update")
    options = parser.parse_args()
    data = DATA[options.data]
    tokenizer = build.tokenizer(data)
    train, test = (build.corpus(data, tokenizer, split) for split in ("train", "test"))
    held_out = test.windows(4096)
    held_out = held_out[: len(held_out) // 16 * 16]
    print(f"| {options.data}: first step of NFE | reveals | one product, bits | " + " | ".join(f"gain of {m}" for m in options.products) + " |")
    print("|---" * (3 + len(options.products)) + "|")
    for nfe in options.nfe:
        for spread in (False, True):
            bits = [fit(train, held_out, tokenizer.size, m, 1 / nfe, spread, steps=options.steps, batch=options.batch) for m in (1, *options.products)]
            print(f"| {nfe} | {'spread' if spread else 'independent'} | {bits[0]:.2f} | " + " | ".join(f"{bits[0] - b:.2f}" for b in bits[1:]) + " |", flush=True)


if __name__ == "__main__":
    main()
