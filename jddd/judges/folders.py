"""Judges in Hugging Face's layout: a folder with config.json and model.safetensors, in one file or in shards with their index."""

from __future__ import annotations

import contextlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from jddd.judges.layouts import HUGGING_FACE, assemble
from jddd.models.lm import LMConfig
from jddd.types import Params

GELUS = {"gelu_new": "tanh", "gelu_pytorch_tanh": "tanh", "gelu": "erf"}
UNSUPPORTED = {  # fields that change the network, and the only value that is the network of jddd.models.lm
    "gpt2": {"scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False, "add_cross_attention": False},
    "llama": {"hidden_act": "silu", "attention_bias": False, "mlp_bias": False},
}


def _json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise ValueError(f"judge {str(file)!r} does not exist; allowed: a folder with config.json and model.safetensors")
    try:
        found = json.loads(file.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"judge {str(file)!r} is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise ValueError(f"judge {str(file)!r} holds a {type(found).__name__}; allowed: a JSON object")
    return found


def _stretch(scaling: dict, base: float, head: int, where: str) -> tuple[float, ...]:
    """What Llama 3 divides its rotary frequencies by to reach longer contexts (Grattafiori et al. 2024), () without: `factor` for wavelengths past
    original / low_freq_factor, 1 for those below original / high_freq_factor, and in between the frequency is interpolated."""
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind == "default":
        return ()
    if kind == "linear":
        return (float(scaling["factor"]),) * (head // 2)
    if kind != "llama3":
        raise ValueError(f"judge {where}: rope type is {kind!r}; allowed: 'default', 'linear', 'llama3'")
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    waves = 2 * math.pi * base ** (2 * np.arange(head // 2) / head)
    near = np.clip((scaling["original_max_position_embeddings"] / waves - low) / (high - low), 0, 1)
    return tuple((1 / (near + (1 - near) / scaling["factor"])).tolist())


def config_of(description: dict[str, Any], dtype: str = "float32", where: str = "config.json") -> LMConfig:
    """The sizes in a config.json of GPT-2 or Llama. Raises ValueError naming the first field that is missing or not supported."""
    family = description.get("model_type")
    if family not in HUGGING_FACE:
        raise ValueError(f"judge {where}: model_type is {family!r}; allowed: {', '.join(HUGGING_FACE)}")
    for field, wanted in UNSUPPORTED[family].items():
        if description.get(field, wanted) != wanted:
            raise ValueError(f"judge {where}: {field} is {description[field]!r}; allowed: {wanted!r}")
    try:
        if family == "gpt2":
            width, heads = description["n_embd"], description["n_head"]
            gelu = description.get("activation_function", "gelu_new")
            if gelu not in GELUS:
                raise ValueError(f"judge {where}: activation_function is {gelu!r}; allowed: {', '.join(GELUS)}")
            sizes = dict(depth=description["n_layer"], kv_heads=heads, head=width // heads, hidden=description.get("n_inner") or 4 * width, context=description["n_positions"])
            sizes |= dict(eps=float(description.get("layer_norm_epsilon", 1e-5)), tied=description.get("tie_word_embeddings", True), gelu=GELUS[gelu])
        else:
            width, heads = description["hidden_size"], description["num_attention_heads"]
            head = description.get("head_dim") or width // heads
            rope = description.get("rope_parameters") or {}  # transformers 5; before, rope_theta and rope_scaling
            base = float(rope.get("rope_theta", description.get("rope_theta", 10_000.0)))
            stretch = _stretch(rope or description.get("rope_scaling") or {}, base, head, where)
            sizes = dict(depth=description["num_hidden_layers"], kv_heads=description.get("num_key_value_heads") or heads, head=head, hidden=description["intermediate_size"])
            sizes |= dict(context=description.get("max_position_embeddings", 2048), eps=float(description.get("rms_norm_eps", 1e-6)), tied=description.get("tie_word_embeddings", False))
            sizes |= dict(base=base, stretch=stretch)
        return LMConfig(family=family, symbols=description["vocab_size"], width=width, heads=heads, dtype=dtype, **sizes)
    except KeyError as error:
        raise ValueError(f"judge {where}: {error.args[0]} is missing; allowed: the fields of a {family} config.json") from None


def load(folder: str | Path, dtype: str = "float32") -> tuple[LMConfig, Params]:
    """(config, params) of a folder, parameters in dtype. Raises ValueError naming the first offending file, field or tensor."""
    folder = Path(folder)
    config = config_of(_json(folder / "config.json"), dtype, str(folder / "config.json"))
    index = folder / "model.safetensors.index.json"
    single = folder / "model.safetensors"
    if not single.is_file() and not index.is_file():
        raise ValueError(f"judge {str(single)!r} does not exist; allowed: a folder with model.safetensors, or its shards and {index.name} (other formats: save it as safetensors)")
    names = ["model.safetensors"] if single.is_file() else sorted(set(_json(index).get("weight_map", {}).values()))
    with contextlib.ExitStack() as stack:
        holders: dict[str, Any] = {}
        for name in names:
            if not (folder / name).is_file():
                raise ValueError(f"judge {str(folder / name)!r} does not exist; {index.name} names it")
            try:
                shard = stack.enter_context(safe_open(folder / name, framework="flax"))  # the numpy one has no bfloat16
            except (SafetensorError, OSError) as error:
                raise ValueError(f"judge {str(folder / name)!r} is damaged or truncated: {error}") from None
            holders |= {key: shard for key in shard.keys()}
        prefixes = ("model.", "transformer.")
        bare = {next((key.removeprefix(p) for p in prefixes if key.startswith(p)), key): key for key in holders}
        shapes = {name: tuple(holders[key].get_slice(key).get_shape()) for name, key in bare.items()}
        read = lambda name: np.asarray(holders[bare[name]].get_tensor(bare[name])).astype(np.float32)
        return config, assemble(config, HUGGING_FACE[config.family], shapes, read, where=str(folder), transposed=config.family == "llama")
