"""ONE trainer, for teachers, judges and distillation, on any mesh.

A task is a pair of pure functions; a run is `fit`. The randomness of step n is fold_in(key, n) and its batch is batch(n), so a run that is killed
at any moment and started again goes on bit for bit.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import optax
from tqdm import tqdm

from jddd import checkpoints, sharding
from jddd.types import Params, PRNGKey
from jddd.writers import Writer


class Task(NamedTuple):
    """init(key) -> params; loss(params, key, batch, frozen) -> (scalar, dict of scalars). frozen: a teacher's parameters, or ()."""

    init: Callable[[PRNGKey], Params]
    loss: Callable[[Params, PRNGKey, Any, Any], tuple[jax.Array, dict]]


@flax.struct.dataclass
class TrainState:
    step: Any  # int32 scalar, or its ShapeDtypeStruct
    params: Params
    ema: Params
    opt_state: Any


def initial_state(key: PRNGKey, initial: Params | None = None, *, task: Task, optimiser: optax.GradientTransformation) -> TrainState:
    params = task.init(key) if initial is None else initial
    return TrainState(jnp.zeros((), jnp.int32), params, jax.tree.map(jnp.copy, params), optimiser.init(params))


def train_step(state: TrainState, key: PRNGKey, batch: Any, frozen: Any, *, task: Task, optimiser: optax.GradientTransformation, ema: float, microbatches: int, on):
    """One update: gradients averaged over `microbatches` parts of the batch, each with its own key. Returns (state, metrics)."""
    key = jax.random.fold_in(key, state.step)
    gradient = jax.value_and_grad(task.loss, has_aux=True)

    def part(carry, inputs):
        index, piece = inputs
        return jax.tree.map(jnp.add, carry, gradient(state.params, jax.random.fold_in(key, index), piece, frozen)), None

    def split(x):  # rows of one part lie on all devices: part i takes rows i, i + microbatches, ...
        x = x.reshape(-1, microbatches, *x.shape[1:]).swapaxes(0, 1)
        if on.size == 1:  # a constraint that says nothing makes a step take three times as long on CPU (jax 0.10)
            return x
        return jax.lax.with_sharding_constraint(x, jax.sharding.NamedSharding(on, jax.sharding.PartitionSpec(None, "data")))

    first = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(gradient, state.params, key, jax.tree.map(lambda x: x[: len(x) // microbatches], batch), frozen))
    total, _ = jax.lax.scan(part, first, (jnp.arange(microbatches), jax.tree.map(split, batch)))
    (loss, metrics), grads = jax.tree.map(lambda x: x / microbatches, total)
    updates, opt_state = optimiser.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    decay = jnp.minimum(ema, (1.0 + state.step) / (10.0 + state.step))  # a young average follows the parameters closely
    average = jax.tree.map(lambda a, p: decay * a + (1 - decay) * p, state.ema, params)
    return TrainState(state.step + 1, params, average, opt_state), {"loss": loss, "grad_norm": optax.tree.norm(grads), **metrics}


def fit(
    key: PRNGKey,
    task: Task,
    optimiser: optax.GradientTransformation,
    batch: Callable[[int], Any],
    *,
    steps: int,
    frozen: Any = (),
    initial: Params | None = None,
    ema: float = 0.999,
    microbatches: int = 1,
    on=None,
    workdir: str | Path | None = None,
    save_every: int = 500,
    log_every: int = 20,
    evaluate: Callable[[TrainState], dict[str, float]] | None = None,
    evaluate_every: int = 0,
    title: str = "training",
    progress: bool = True,
) -> TrainState:
    """Run `steps` updates and return the final state; with a workdir, resume from its newest checkpoint and log as it goes.

    batch(step) -> pytree of arrays whose first axis is a multiple of microbatches times the mesh's 'data' axis.
    initial: parameters to start from in the place of task.init's, as a student starts from its teacher's.
    Raises ValueError for a batch that devices and microbatches cannot share, and FloatingPointError at the first logged or saved step whose loss or gradient
    is not finite; the checkpoint before it is kept.
    """
    on = on or sharding.mesh(devices=jax.devices()[:1])
    key_init, key_steps = jax.random.split(key)
    begin = functools.partial(initial_state, task=task, optimiser=optimiser)
    shapes = jax.eval_shape(begin, key_init, initial)
    layout = sharding.shardings(shapes, on)
    saved = None
    store = checkpoints.manager(workdir) if workdir else None
    if store:
        like = jax.tree.map(lambda s, place: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=place), shapes, layout)
        saved = checkpoints.restore(store, like)
    state = saved or jax.jit(begin, out_shardings=layout)(key_init, initial)
    update = functools.partial(train_step, task=task, optimiser=optimiser, ema=ema, microbatches=microbatches, on=on)
    update = jax.jit(update, donate_argnums=0, out_shardings=(layout, None))
    writer = Writer(workdir) if workdir else None
    start, clock, pending = int(state.step), time.perf_counter(), None
    bar = tqdm(range(start, steps), initial=start, total=steps, desc=title, disable=not progress, mininterval=1.0)

    def check(step, metrics):
        for name in ("loss", "grad_norm"):
            if not jnp.isfinite(metrics[name]):
                kept = f"; the newest checkpoint is {store.latest_step()} in {store.directory}" if store else ""
                raise FloatingPointError(f"{title}: {name} is {metrics[name]} at step {step}{kept}")

    def report(step, metrics, seconds):
        check(step, metrics)
        values = {k: float(v) for k, v in metrics.items()}
        bar.set_postfix(loss=f"{values['loss']:.4f}")
        if writer:
            writer.write(step, {**values, "steps_per_second": log_every / seconds})

    try:
        for step in bar:
            if store and step > start and step % save_every == 0:
                if pending:
                    report(*pending)
                    pending = None
                check(step, metrics)  # a state that is not finite must not be saved, nor push out those that are
                checkpoints.save(store, step, state)
            if evaluate and evaluate_every and step > start and step % evaluate_every == 0:
                scores = evaluate(state)
                if writer:
                    writer.write(step, scores)
            data, parts = batch(step), microbatches * on.shape["data"]
            if rows := [len(x) for x in jax.tree.leaves(data) if len(x) % parts]:
                raise ValueError(f"config field train.batch is {rows[0]}; allowed: a multiple of {parts}, train.microbatches times the {on.shape['data']} devices that share the rows")
            data = jax.tree.map(lambda x: jax.device_put(x, sharding.rows(on)), data)
            state, metrics = update(state, key_steps, data, frozen)
            if pending:
                report(*pending)
                pending = None
            if step % log_every == log_every - 1 or step == steps - 1:
                now = time.perf_counter()
                pending, clock = (step + 1, metrics, now - clock), now
        if pending:
            report(*pending)
        if store:
            checkpoints.save(store, steps, state)
    finally:
        if store:
            store.wait_until_finished()
            store.close()
        if writer:
            writer.close()
    return state
