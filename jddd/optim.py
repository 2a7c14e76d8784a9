"""Optimisers by name, with gradient clipping, warm-up and a linear decay to zero."""

from __future__ import annotations

import dataclasses

import jax
import optax

OPTIMISERS = ("adamw", "muon")


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    """name: 'adamw', or 'muon' (Jordan et al. 2024: orthogonalised momentum on the matrices of the blocks, Adam elsewhere).

    decay_from: the share of the steps after which the rate falls linearly to zero. latent_rate: times the rate for what a mixture student has besides its
    teacher's weights, which is to learn from nothing what the others are to keep."""

    name: str = "adamw"
    learning_rate: float = 3e-4
    adam_learning_rate: float = 3e-3
    warmup: int = 100
    decay_from: float = 0.3
    clip: float = 1.0
    weight_decay: float = 0.0
    latent_rate: float = 1.0

    def __post_init__(self):
        if self.name not in OPTIMISERS:
            raise ValueError(f"optim.name is {self.name!r}; allowed: {', '.join(OPTIMISERS)}")
        if not self.learning_rate > 0:
            raise ValueError(f"optim.learning_rate is {self.learning_rate}; allowed: a positive number")


def rate(peak: float, config: OptimConfig, steps: int) -> optax.Schedule:
    """Warm-up, plateau, linear decay to zero at `steps`."""
    warmup = max(1, min(config.warmup, steps // 10))
    plateau = max(warmup, int(config.decay_from * steps))
    parts = [optax.linear_schedule(peak / warmup, peak, warmup), optax.constant_schedule(peak), optax.linear_schedule(peak, 0.0, max(1, steps - plateau))]
    return optax.join_schedules(parts, [warmup, plateau])


def _block_matrices(params):
    """The matrices inside transformer blocks: what Muon orthogonalises."""
    spec = optax.contrib.MuonDimensionNumbers()
    inside = lambda path, leaf: spec if leaf.ndim == 2 and "block" in jax.tree_util.keystr(path) and path[-1].key == "kernel" else None
    return jax.tree_util.tree_map_with_path(inside, params)


def optimiser(config: OptimConfig, steps: int) -> optax.GradientTransformation:
    """The optax transformation of a config for a run of `steps`."""
    main = rate(config.learning_rate, config, steps)
    if config.name == "adamw":
        inner = optax.adamw(main, b2=0.99, weight_decay=config.weight_decay)
    else:
        inner = optax.contrib.muon(
            main,
            weight_decay=config.weight_decay,
            adam_b2=0.99,
            adam_learning_rate=rate(config.adam_learning_rate, config, steps),
            muon_weight_dimension_numbers=_block_matrices,
            consistent_rms=0.2,
        )
    faster = lambda path, update: update * config.latent_rate if "latent" in jax.tree_util.keystr(path) else update
    after = optax.stateless(lambda updates, params: jax.tree_util.tree_map_with_path(faster, updates))
    return optax.chain(optax.clip_by_global_norm(config.clip), inner, *([after] if config.latent_rate != 1 else []))
