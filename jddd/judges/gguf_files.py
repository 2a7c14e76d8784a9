"""Weights and metadata of .gguf files, through the package gguf (extra `jddd[judges]`); quantised tensors are widened to float32."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from jddd.judges.layouts import GGUF, assemble
from jddd.models import lm
from jddd.models.lm import LMConfig
from jddd.types import Params


def _reader(path: str | Path):
    """The file, memory-mapped. Raises ValueError naming it where it is missing, damaged or truncated."""
    try:
        import gguf
    except ImportError as error:
        raise ValueError(f"judge {str(path)!r} is a gguf file, which needs the package gguf: pip install 'jddd[judges]'") from error
    if not Path(path).is_file():
        raise ValueError(f"judge {str(path)!r} does not exist; allowed: a .gguf file")
    try:
        return gguf.GGUFReader(path)
    except Exception as error:  # the library meets damage with whatever numpy raises
        raise ValueError(f"judge {str(path)!r} is no gguf file, or damaged or truncated: {type(error).__name__} {str(error)[:120]}") from None


def metadata(path: str | Path, prefix: str = "") -> dict:
    """The metadata whose keys begin with prefix, without it, as Python values."""
    return {key.removeprefix(prefix): field.contents() for key, field in _reader(path).fields.items() if key.startswith(prefix)}


def _config(path: Path, reader, dtype: str) -> LMConfig:
    """The sizes in a file's metadata. Raises ValueError naming the first field that is missing or not supported."""
    value = lambda key, default=None: field.contents() if (field := reader.fields.get(key)) else default
    family = value("general.architecture")
    if family not in lm.FAMILIES:
        raise ValueError(f"gguf field general.architecture of {str(path)!r} is {family!r}; allowed: {', '.join(lm.FAMILIES)}")
    if value(f"{family}.rope.scaling.type", "none") != "none":
        raise ValueError(f"gguf field {family}.rope.scaling.type of {str(path)!r} is {value(f'{family}.rope.scaling.type')!r}; allowed: 'none'")

    def size(key: str, default: int | None = None) -> int:
        found = value(f"{family}.{key}", default)
        if not isinstance(found, int):
            raise ValueError(f"gguf field {family}.{key} of {str(path)!r} is {found!r}; allowed: a whole number")
        return found

    tensors = {tensor.name: tensor for tensor in reader.tensors}
    if "token_embd.weight" not in tensors:
        raise ValueError(f"judge {str(path)!r}: token_embd.weight is missing; its shape should be (symbols, {size('embedding_length')})")
    heads, width = size("attention.head_count"), size("embedding_length")
    head = size("attention.key_length", width // heads)
    factors = tensors.get("rope_freqs.weight")
    return LMConfig(
        family=family,
        symbols=int(tensors["token_embd.weight"].shape[-1]),  # gguf writes shapes fastest axis first
        width=width,
        depth=size("block_count"),
        heads=heads,
        kv_heads=size("attention.head_count_kv", heads),
        head=head,
        hidden=size("feed_forward_length"),
        context=size("context_length"),
        eps=value(f"{family}.attention.layer_norm_rms_epsilon" if family == "llama" else f"{family}.attention.layer_norm_epsilon", 1e-5),
        base=value(f"{family}.rope.freq_base", 10_000.0),
        stretch=() if factors is None else tuple(float(x) for x in np.ravel(factors.data)),
        tied="output.weight" not in tensors,
        dtype=dtype,
    )


def unpermute(weight: np.ndarray, heads: int) -> np.ndarray:
    """q or k of a Llama gguf (out, in) in the halves layout of `lm.rotate`: llama.cpp stores rows so that neighbours 2 i, 2 i + 1 of a head turn together."""
    return weight.reshape(heads, -1, 2, weight.shape[-1]).swapaxes(1, 2).reshape(weight.shape)


def load(path: str | Path, dtype: str = "float32") -> tuple[LMConfig, Params]:
    """(config, params) of a GPT-2 or Llama gguf, parameters in dtype. Raises ValueError naming the first offending field or tensor."""
    reader = _reader(path)
    import gguf

    config = _config(Path(path), reader, dtype)
    tensors = {tensor.name: tensor for tensor in reader.tensors if tensor.name != "rope_freqs.weight"}

    def read(name: str) -> np.ndarray:
        weight = np.asarray(gguf.quants.dequantize(tensors[name].data, tensors[name].tensor_type), np.float32)
        if config.family == "llama" and name.endswith(("attn_q.weight", "attn_k.weight")):
            return unpermute(weight, config.heads if name.endswith("attn_q.weight") else config.kv_heads)
        return weight

    shapes = {name: tuple(int(n) for n in tensor.shape[::-1]) for name, tensor in tensors.items()}
    return config, assemble(config, GGUF[config.family], shapes, read, where=str(path), transposed=True)
