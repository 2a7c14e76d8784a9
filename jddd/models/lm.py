"""Autoregressive language models of others, as judges: the GPT-2 family (Radford et al. 2019) and the Llama family (Touvron et al. 2023) on one attention.

GPT-2: learned positions, LayerNorm, biases, GELU. Llama: rotary positions in the halves layout, RMSNorm, no biases, SwiGLU, grouped queries. Pure
functions of (config, params): nothing here is trained. The blocks' parameters are stacked along depth and run in a scan, so that 48 of them compile as
one. Attention is written out in the explicit (batch, head, length, width) layout; softmaxes and log-probabilities are float32 whatever the activations.
"""

from __future__ import annotations

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jddd.types import Params

FAMILIES = ("gpt2", "llama")


@dataclasses.dataclass(frozen=True)
class LMConfig:
    """Sizes. symbols: V; kv_heads: heads of keys and values, each serving heads / kv_heads queries; head: width of a head; hidden: width within the MLP;
    context: the longest row; eps: of the norms; base: of the rotary angles; stretch: what each of the head / 2 rotary frequencies is divided by (Llama
    3's long contexts), () for 1; tied: the head is the embedding; gelu: 'tanh' (GPT-2's) or 'erf'; dtype: of parameters and activations."""

    family: str
    symbols: int
    width: int
    depth: int
    heads: int
    kv_heads: int
    head: int
    hidden: int
    context: int
    eps: float = 1e-5
    base: float = 10_000.0
    stretch: tuple[float, ...] = ()
    tied: bool = True
    gelu: str = "tanh"
    dtype: str = "float32"

    def __post_init__(self):
        if self.family not in FAMILIES:
            raise ValueError(f"judge family is {self.family!r}; allowed: {', '.join(FAMILIES)}")
        for field in ("symbols", "width", "depth", "heads", "kv_heads", "head", "hidden", "context"):
            if getattr(self, field) < 1:
                raise ValueError(f"judge {field} is {getattr(self, field)}; allowed: 1 or more")
        if self.heads % self.kv_heads:
            raise ValueError(f"judge heads, kv_heads are {self.heads}, {self.kv_heads}; allowed: heads a multiple of kv_heads")
        if self.family == "llama" and (self.head % 2 or len(self.stretch) not in (0, self.head // 2)):
            raise ValueError(f"judge head, stretch are {self.head}, {self.stretch}; allowed: an even head, and a stretch for each half of it or none")
        if self.gelu not in ("tanh", "erf"):
            raise ValueError(f"judge gelu is {self.gelu!r}; allowed: 'tanh', 'erf'")
        if self.dtype not in ("float32", "bfloat16"):
            raise ValueError(f"judge dtype is {self.dtype!r}; allowed: 'float32', 'bfloat16'")


def shapes(c: LMConfig) -> dict[str, tuple[int, ...]]:
    """Shape of every parameter by name; those of a block, named 'block.', are once per layer. Matrices are [in, out]."""
    query, key = c.heads * c.head, c.kv_heads * c.head
    block = {"norm_attention": (c.width,), "q": (c.width, query), "k": (c.width, key), "v": (c.width, key), "out": (query, c.width)}
    block |= {"norm_mlp": (c.width,), "up": (c.width, c.hidden), "down": (c.hidden, c.width)}
    found: dict[str, tuple[int, ...]] = {"embed": (c.symbols, c.width), "norm": (c.width,)}
    if c.family == "gpt2":
        found |= {"position": (c.context, c.width), "norm_bias": (c.width,)}
        block |= {f"{name}_bias": shape[-1:] for name, shape in block.items()}
    else:
        block["gate"] = block["up"]
    if not c.tied:
        found["head"] = (c.symbols, c.width)
    return found | {f"block.{name}": shape for name, shape in block.items()}


def rotate(x: Float[Array, "b h l d"], c: LMConfig) -> Float[Array, "b h l d"]:
    """Rotary positions (Su et al. 2021), halves layout: component i turns with i + d / 2. Angles in float32: at position 8,192 bfloat16 has none left."""
    half = x.shape[-1] // 2
    frequency = c.base ** (-jnp.arange(half, dtype=jnp.float32) / half) / jnp.asarray(c.stretch or (1.0,) * half, jnp.float32)
    angle = jnp.arange(x.shape[-2], dtype=jnp.float32)[:, None] * frequency
    cos, sin = jnp.cos(angle).astype(x.dtype), jnp.sin(angle).astype(x.dtype)
    a, b = x[..., :half], x[..., half:]
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1)


def _norm(c: LMConfig, x, scale, bias=None):
    """LayerNorm of GPT-2, RMSNorm of Llama, in float32."""
    x32 = x.astype(jnp.float32)
    if c.family == "gpt2":
        x32 = x32 - x32.mean(-1, keepdims=True)
    y = x32 * jax.lax.rsqrt(jnp.square(x32).mean(-1, keepdims=True) + c.eps) * scale.astype(jnp.float32)
    return (y if bias is None else y + bias.astype(jnp.float32)).astype(x.dtype)


def _attention(c: LMConfig, q, k, v):
    """q (B, H, L, d), k, v (B, K, L, d) -> (B, H, L, d), causal; H / K queries share a key."""
    b, _, length, d = q.shape
    q = q.reshape(b, c.kv_heads, c.heads // c.kv_heads, length, d)
    weight = jnp.einsum("bkgld,bkmd->bkglm", q * d**-0.5, k, preferred_element_type=jnp.float32)
    weight = jnp.where(jnp.tril(jnp.ones((length, length), bool)), weight, jnp.finfo(jnp.float32).min)
    return jnp.einsum("bkglm,bkmd->bkgld", jax.nn.softmax(weight, -1).astype(v.dtype), v).reshape(b, c.heads, length, d)


def _block(c: LMConfig, x, p):
    dense = lambda h, name: h @ p[name] + p.get(f"{name}_bias", 0)
    split = lambda y, heads: jnp.swapaxes(y.reshape(*y.shape[:2], heads, c.head), 1, 2)
    h = _norm(c, x, p["norm_attention"], p.get("norm_attention_bias"))
    q, k, v = split(dense(h, "q"), c.heads), split(dense(h, "k"), c.kv_heads), split(dense(h, "v"), c.kv_heads)
    if c.family == "llama":
        q, k = rotate(q, c), rotate(k, c)
    x = x + dense(jnp.swapaxes(_attention(c, q, k, v), 1, 2).reshape(*x.shape[:2], -1), "out")
    h = _norm(c, x, p["norm_mlp"], p.get("norm_mlp_bias"))
    inner = jax.nn.silu(dense(h, "gate")) * dense(h, "up") if c.family == "llama" else jax.nn.gelu(dense(h, "up"), approximate=c.gelu == "tanh")
    return x + dense(inner, "down")


@functools.partial(jax.jit, static_argnames="config")
def features(config: LMConfig, params: Params, x: Int[Array, "b l"]) -> Float[Array, "b l width"]:
    """The hidden states after the last norm. Row i of them has read tokens 0 .. i, so that what pads a row on its right changes nothing before it.

    Raises ValueError for rows longer than config.context."""
    c = config
    if x.shape[1] > c.context:
        raise ValueError(f"judge rows have {x.shape[1]} tokens; allowed: its context of {c.context} at most")
    h = params["embed"][x]
    if c.family == "gpt2":
        h = h + params["position"][: x.shape[1]]
    h, _ = jax.lax.scan(lambda h, p: (_block(c, h, p), None), h, params["blocks"])
    return _norm(c, h, params["norm"], params.get("norm_bias"))


def logits(config: LMConfig, params: Params, hidden: Float[Array, "*b width"]) -> Float[Array, "*b symbols"]:
    """Logits of the next token, float32."""
    return jnp.einsum("...w,vw->...v", hidden, params["embed" if config.tied else "head"], preferred_element_type=jnp.float32)


@functools.partial(jax.jit, static_argnames=("config", "chunk"))
def log_likelihood(config: LMConfig, params: Params, x: Int[Array, "b l"], *, chunk: int = 256) -> Float[Array, "b l-1"]:
    """log p(x_i | x_<i) for i = 1 .. L - 1, nats; the first token has no probability under these models and stays unscored.

    The head runs on `chunk` positions at a time: (chunk, V) logits are all that is ever held of (B, L, V), 51 MB of float32 at V = 50,257."""
    hidden = features(config, params, x)[:, :-1].reshape(-1, config.width)
    target = x[:, 1:].reshape(-1)
    chunks = math.ceil(len(target) / chunk)
    pad = chunks * chunk - len(target)

    def score(piece):
        h, y = piece
        row = logits(config, params, h)
        return jnp.take_along_axis(row, y[:, None], -1)[:, 0] - jax.nn.logsumexp(row, -1)

    pieces = jnp.pad(hidden, ((0, pad), (0, 0))).reshape(chunks, chunk, -1), jnp.pad(target, (0, pad)).reshape(chunks, chunk)
    return jax.lax.map(score, pieces).reshape(-1)[: len(target)].reshape(x.shape[0], -1)
