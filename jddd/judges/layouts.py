"""What the tensors of published judges are called, and how they become the parameters of jddd.models.lm: one table a layout, one function for all."""

from __future__ import annotations

import re
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from jddd.models import lm
from jddd.models.lm import LMConfig
from jddd.types import Params

QKV = ("block.q", "block.k", "block.v")
Table = dict[str, str | tuple[str, ...]]  # name in the file, {} for the layer -> our name, or our names side by side along the outputs


def _with_biases(table: Table) -> Table:
    """Every .weight but the embeddings' with its .bias."""
    biased = lambda ours: f"{ours}_bias" if isinstance(ours, str) else tuple(f"{name}_bias" for name in ours)
    return table | {name.replace(".weight", ".bias"): biased(ours) for name, ours in table.items() if ours not in ("embed", "position", "head")}


_GPT2_ENDS: Table = {"wte.weight": "embed", "wpe.weight": "position", "lm_head.weight": "head", "ln_f.weight": "norm"}
_GPT2_BLOCK = {"ln_1": "block.norm_attention", "attn.c_attn": QKV, "attn.c_proj": "block.out", "ln_2": "block.norm_mlp", "mlp.c_fc": "block.up", "mlp.c_proj": "block.down"}
_LLAMA_ENDS: Table = {"embed_tokens.weight": "embed", "lm_head.weight": "head", "norm.weight": "norm"}
_LLAMA_BLOCK = {
    **{"input_layernorm": "block.norm_attention", "post_attention_layernorm": "block.norm_mlp", "self_attn.q_proj": "block.q", "self_attn.k_proj": "block.k"},
    **{"self_attn.v_proj": "block.v", "self_attn.o_proj": "block.out", "mlp.gate_proj": "block.gate", "mlp.up_proj": "block.up", "mlp.down_proj": "block.down"},
}
HUGGING_FACE: dict[str, Table] = {
    "gpt2": _with_biases(_GPT2_ENDS | {f"h.{{}}.{name}.weight": ours for name, ours in _GPT2_BLOCK.items()}),
    "llama": _LLAMA_ENDS | {f"layers.{{}}.{name}.weight": ours for name, ours in _LLAMA_BLOCK.items()},
}
_GGUF_BOTH: Table = {
    **{"token_embd.weight": "embed", "output.weight": "head", "output_norm.weight": "norm", "blk.{}.attn_norm.weight": "block.norm_attention", "blk.{}.attn_output.weight": "block.out"},
    **{"blk.{}.ffn_norm.weight": "block.norm_mlp", "blk.{}.ffn_up.weight": "block.up", "blk.{}.ffn_down.weight": "block.down"},
}
GGUF: dict[str, Table] = {
    "gpt2": _with_biases(_GGUF_BOTH | {"position_embd.weight": "position", "blk.{}.attn_qkv.weight": QKV}),
    "llama": _GGUF_BOTH | {**{f"blk.{{}}.attn_{x}.weight": f"block.{x}" for x in "qkv"}, "blk.{}.ffn_gate.weight": "block.gate"},
}
BUFFERS = re.compile(r"h\.\d+\.attn\.(masked_)?bias|layers\.\d+\.self_attn\.rotary_emb\.inv_freq")  # constants that old files carry


def assemble(config: LMConfig, table: Table, have: dict[str, tuple[int, ...]], read: Callable[[str], np.ndarray], *, where: str, transposed: bool) -> Params:
    """The parameters of jddd.models.lm from a file's tensors, in config.dtype.

    have: shapes by name; read: a tensor by name; transposed: matrices of blocks lie as [out, in]. Everything is compared before anything is read. Raises
    ValueError naming `where`, the first tensor that is missing, mis-shaped, unexpected or not finite, the shape found and the shape expected."""
    ours = lm.shapes(config)
    plan: list[tuple[str, tuple[str, ...]]] = []
    for layer in range(config.depth):
        plan += [(name.format(layer), parts if isinstance(parts, tuple) else (parts,)) for name, parts in table.items() if "{}" in name]
    ends = [(name, (parts,)) for name, parts in table.items() if "{}" not in name and parts in ours]
    for name, parts in ends + plan:
        shape = (*ours[parts[0]][:-1], sum(ours[part][-1] for part in parts))
        shape = shape[::-1] if transposed and name not in dict(ends) else shape
        if name not in have:
            raise ValueError(f"judge {where}: {name} is missing; expected, with shape {shape}")
        if tuple(have[name]) != shape:
            raise ValueError(f"judge {where}: {name} has shape {tuple(have[name])}; expected {shape}")
    known = {name for name, _ in ends + plan}
    ignored = lambda name: BUFFERS.fullmatch(name) or (config.tied and table.get(name) == "head")
    if odd := [name for name in have if name not in known and not ignored(name)]:
        raise ValueError(f"judge {where}: {odd[0]} has shape {tuple(have[odd[0]])}; expected no such tensor in a {config.family} of {config.depth} layers")

    def tensor(name: str) -> np.ndarray:
        value = read(name)
        if not np.isfinite(value).all():
            raise ValueError(f"judge {where}: {name} of shape {value.shape} holds NaN or infinity; expected finite numbers")
        return value

    params: dict = {parts[0]: jnp.asarray(tensor(name), config.dtype) for name, parts in ends}
    layers: dict[str, list] = {}
    for name, parts in plan:
        value = tensor(name).T if transposed else tensor(name)  # vectors are their own transpose
        for part, piece in zip(parts, np.split(value, np.cumsum([ours[part][-1] for part in parts])[:-1], -1), strict=True):
            layers.setdefault(part.removeprefix("block."), []).append(jnp.asarray(piece, config.dtype))
    return params | {"blocks": {name: jnp.stack(layers.pop(name)) for name in list(layers)}}  # one stack at a time: a second copy of a layer, not of all
