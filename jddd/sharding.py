"""One mesh with axes ('data', 'model'); one device is a mesh of one. Rules are data: (regular expression, PartitionSpec)."""

from __future__ import annotations

import re
from collections.abc import Sequence

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

# Tensor parallelism of the transformer blocks over 'model': matrices into a block are split by columns, matrices out of it by rows.
RULES = (
    (r"(qkv|mlp_in|modulation)'\]\['kernel", PartitionSpec(None, "model")),
    (r"(attention_out|mlp_out)'\]\['kernel", PartitionSpec("model", None)),
    (r".*", PartitionSpec()),
)


def mesh(model: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """All devices, `model` of them to a group that shares one copy of the parameters."""
    devices = jax.devices() if devices is None else devices
    if len(devices) % model:
        raise ValueError(f"train.model is {model}; allowed: a divisor of the {len(devices)} devices")
    return jax.make_mesh((len(devices) // model, model), ("data", "model"), axis_types=(AxisType.Auto,) * 2, devices=devices)


def shardings(tree, on: Mesh, rules=RULES):
    """A NamedSharding for every leaf: the first rule whose expression is found in its path and whose axes divide its shape."""

    def place(path, leaf):
        name = jax.tree_util.keystr(path)
        for pattern, spec in rules:
            fits = len(spec) <= leaf.ndim and all(axis is None or leaf.shape[i] % on.shape[axis] == 0 for i, axis in enumerate(spec))
            if fits and re.search(pattern, name):
                return NamedSharding(on, spec)
        return NamedSharding(on, PartitionSpec())

    return jax.tree_util.tree_map_with_path(place, tree)


def rows(on: Mesh) -> NamedSharding:
    """Batches: the first axis over 'data'."""
    return NamedSharding(on, PartitionSpec("data"))
