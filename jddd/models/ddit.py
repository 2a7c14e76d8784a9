"""The diffusion transformer that SEDD, MDLM, SDTT, Di4C and Duo publish (and RADD, which has no time): one network, whose differences are in its config.

Beside jddd's own (jddd.models.dit): LayerNorms with a weight alone, modulated by the noise level (adaLN, Peebles & Xie 2023), which enters as a SiLU of an
MLP of 256 sinusoids of sigma = -log alpha(t); rotary positions in halves; an MLP with tanh GELU; a head with a bias. Di4C's latent is an extra last token
without rotary position, made of 128 sinusoids of 1000 lambda. Sources: Lou et al. 2024, Sahoo et al. 2024 and 2025, Deschenaux & Gulcehre 2024, Hayakawa
et al. 2025, Ou et al. 2025. Shapes: B batch, L length, S states, W width, C cond_dim.
"""

from __future__ import annotations

import dataclasses
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jddd import processes, schedules
from jddd.models.dit import rotate
from jddd.types import Denoiser

SIGMA_FEATURES = 256
LATENT_FEATURES = 128
LATENT_WIDTH = 512
LONG = 512  # sites from which on a CPU takes attention head by head


@dataclasses.dataclass(frozen=True)
class DDiTConfig:
    """Sizes, by default those of the small text models. states: rows of the embedding, a mask included; outputs: of the head; cond_dim: width of the noise
    level's vector, 0 for a network without one (RADD), whose LayerNorms have a bias in its place.

    time_conditioning: False puts 0 in the place of every noise level. latent: the network is one product of a mixture (Di4C). scores: the head gives
    SEDD's log-scores before their scaling, not logits of x_0. dtype: of the activations; parameters and outputs are float32."""

    states: int = 50258
    outputs: int = 50258
    width: int = 768
    depth: int = 12
    heads: int = 12
    cond_dim: int = 128
    time_conditioning: bool = False
    latent: bool = False
    scores: bool = False
    dtype: str = "float32"

    def __post_init__(self):
        for field, least in (("states", 1), ("outputs", 1), ("width", 1), ("depth", 1), ("heads", 1), ("cond_dim", 0)):
            if getattr(self, field) < least:
                raise ValueError(f"model.{field} is {getattr(self, field)}; allowed: {least} or more")
        if self.width % (2 * self.heads):
            raise ValueError(f"model.width is {self.width} and model.heads {self.heads}; allowed: width a multiple of 2 * heads")
        if self.dtype not in ("float32", "bfloat16"):
            raise ValueError(f"model.dtype is {self.dtype!r}; allowed: 'float32', 'bfloat16'")
        if not self.cond_dim and self.time_conditioning:
            raise ValueError("model.cond_dim is 0 with model.time_conditioning; allowed: a width above 0, or no conditioning")
        if self.latent and self.scores:
            raise ValueError("model.latent is True with model.scores; allowed: logits of x_0")


def attend(q: Float[Array, "b h l d"], k: Float[Array, "b h l d"], v: Float[Array, "b h l d"]) -> Float[Array, "b h l d"]:
    """Softmax attention of scaled queries, the softmax in float32. On a CPU long rows go head by head: a table of 1024 x 1024 weights stays in its cache."""

    def one(q, k, v):
        weight = jnp.einsum("...ld,...md->...lm", q, k).astype(jnp.float32)
        return jnp.einsum("...lm,...md->...ld", jax.nn.softmax(weight, -1).astype(v.dtype), v)

    def by_head(q, k, v):
        heads = jax.lax.map(lambda head: one(*head), tuple(jnp.moveaxis(array, 1, 0) for array in (q, k, v)))
        return jnp.moveaxis(heads, 0, 1)

    return jax.lax.platform_dependent(q, k, v, cpu=by_head, default=one) if q.shape[2] >= LONG else one(q, k, v)


def _frequencies(count: int, last: int) -> np.ndarray:
    """10,000^(-i / last), i < count, the exponent in float32: an angle of 1000 keeps 4 digits of its sine only if it is rounded as it was in training."""
    return np.exp((np.arange(count, dtype=np.float32) * np.float32(-math.log(10_000) / last)).astype(np.float64)).astype(np.float32)


def sigma_features(sigma: Float[Array, "b"]) -> Float[Array, "b 256"]:
    """Cosines, then sines, of sigma times 10,000^(-i / 128)."""
    angle = sigma.astype(jnp.float32)[:, None] * _frequencies(SIGMA_FEATURES // 2, SIGMA_FEATURES // 2)
    return jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], -1)


def latent_features(latent: Float[Array, "b"]) -> Float[Array, "b 128"]:
    """Sines, then cosines, of 1000 lambda times 10,000^(-i / 63)."""
    angle = (1000.0 * latent.astype(jnp.float32))[:, None] * _frequencies(LATENT_FEATURES // 2, LATENT_FEATURES // 2 - 1)
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], -1)


class Norm(nn.Module):
    """LayerNorm, eps 1e-5, then the condition's shift and scale, or where there is none a bias of its own."""

    config: DDiTConfig

    @nn.compact
    def __call__(self, x, shift=0.0, scale=0.0):
        c = self.config
        return nn.LayerNorm(epsilon=1e-5, use_bias=not c.cond_dim, dtype=jnp.dtype(c.dtype), use_fast_variance=False, name="layer")(x) * (1 + scale) + shift


class Block(nn.Module):
    config: DDiTConfig

    @nn.compact
    def __call__(self, x, condition):
        c, dtype = self.config, jnp.dtype(self.config.dtype)
        dense = lambda size, name, bias: nn.Dense(size, use_bias=bias, dtype=dtype, name=name)
        shift1 = scale1 = shift2 = scale2 = 0.0
        gate1 = gate2 = 1.0
        if c.cond_dim:  # adaLN-zero: (B, 1, W) each; a fresh block is the identity
            modulation = nn.Dense(6 * c.width, dtype=dtype, kernel_init=nn.initializers.zeros_init(), name="modulation")(condition)
            shift1, scale1, gate1, shift2, scale2, gate2 = jnp.split(modulation[:, None], 6, -1)
        h = Norm(c, name="norm_attention")(x, shift1, scale1)
        q, k, v = (jnp.swapaxes(y.reshape(*y.shape[:2], c.heads, -1), 1, 2) for y in jnp.split(dense(3 * c.width, "qkv", False)(h), 3, -1))
        a = attend(rotate(q, c.latent) * (q.shape[-1] ** -0.5), rotate(k, c.latent), v)
        x = x + gate1 * dense(c.width, "attention_out", False)(jnp.swapaxes(a, 1, 2).reshape(x.shape))
        h = Norm(c, name="norm_mlp")(x, shift2, scale2)
        return x + gate2 * dense(c.width, "mlp_out", True)(nn.gelu(dense(4 * c.width, "mlp_in", True)(h), approximate=True))


class DDiT(nn.Module):
    """features: (x (B, L), sigma () or (B,)) -> (B, L, W), after the last modulation; head: (..., W) -> raw outputs (..., outputs), float32."""

    config: DDiTConfig

    def setup(self):
        c, dtype = self.config, jnp.dtype(self.config.dtype)
        self.embed = nn.Embed(c.states, c.width, name="embed")
        self.blocks = [Block(c, name=f"block_{i}") for i in range(c.depth)]
        self.norm = Norm(c, name="norm")
        self.logits = nn.Dense(c.outputs, dtype=dtype, kernel_init=nn.initializers.zeros_init(), name="logits")
        if c.cond_dim:
            self.sigma_in = nn.Dense(c.cond_dim, name="sigma_in")
            self.sigma_out = nn.Dense(c.cond_dim, name="sigma_out")
            self.modulation = nn.Dense(2 * c.width, dtype=dtype, kernel_init=nn.initializers.zeros_init(), name="modulation")
        if c.latent:
            self.latent_in = nn.Dense(LATENT_WIDTH, name="latent_in")
            self.latent_out = nn.Dense(c.width, name="latent_out")

    def condition(self, sigma: Float[Array, "b"]) -> Float[Array, "b c"]:
        """The noise level's vector, of 0 where the network is not conditioned on it."""
        sigma = sigma if self.config.time_conditioning else jnp.zeros_like(sigma)
        return nn.silu(self.sigma_out(nn.silu(self.sigma_in(sigma_features(sigma)))))

    def token(self, latent: Float[Array, "b"]) -> Float[Array, "b w"]:
        """The latent's token."""
        return self.latent_out(nn.gelu(self.latent_in(latent_features(latent)), approximate=False))

    def features(self, x: Int[Array, "b l"] | Float[Array, "b l s"], sigma: Float[Array, "*b"], latent: Float[Array, "b"] | None = None) -> Float[Array, "b l w"]:
        """x may be real-valued (B, L, S): its softmax then weighs the rows of the embedding (Duo). Raises ValueError for a latent that is missing or too much."""
        c, dtype = self.config, jnp.dtype(self.config.dtype)
        if (latent is None) == c.latent:
            raise ValueError(f"latent is {'missing' if latent is None else 'given'} and model.latent is {c.latent}; allowed: a latent (B,) for a mixture, none for others")
        h = (self.embed(x) if jnp.issubdtype(x.dtype, jnp.integer) else jax.nn.softmax(x, -1) @ self.embed.embedding).astype(dtype)
        condition = self.condition(jnp.broadcast_to(sigma, x.shape[:1]).astype(jnp.float32)) if c.cond_dim else None
        if latent is not None:
            h = jnp.concatenate([h, self.token(latent)[:, None].astype(dtype)], 1)
        for i, block in enumerate(self.blocks):
            h = block(h, condition)
            self.sow("intermediates", f"hidden_{i}", h)  # kept only where a caller asks for intermediates
        h = h[:, : x.shape[1]]
        return self.norm(h, *jnp.split(self.modulation(condition)[:, None], 2, -1)) if c.cond_dim else self.norm(h)

    def head(self, hidden: Float[Array, "*b w"]) -> Float[Array, "*b outputs"]:
        return self.logits(hidden).astype(jnp.float32)

    def __call__(self, x, sigma, *latent):
        return self.head(self.features(x, sigma, *latent))


def init(key, config: DDiTConfig, length: int):
    """Fresh parameters (a pytree of float32)."""
    latent = (jnp.zeros(1),) if config.latent else ()
    return DDiT(config).init(key, jnp.zeros((1, length), jnp.int32), jnp.ones(()), *latent)["params"]


def raw(config: DDiTConfig):
    """(params, tokens (B, L), sigma () or (B,), latent (B,) or None) -> raw outputs (B, L, outputs), jitted."""
    network = DDiT(config)
    return jax.jit(lambda params, tokens, sigma, latent=None: network.apply({"params": params}, tokens, jnp.asarray(sigma, jnp.float32), latent))


def outputs(config: DDiTConfig, process) -> Denoiser:
    """The raw outputs over V symbols as a Denoiser of times; their head runs on any sites, the linear layer alone. What they mean is the caller's matter."""
    network = DDiT(config)
    sigma = lambda t: schedules.total_noise(process.schedule, jnp.asarray(t))
    return Denoiser(
        features=lambda params, x_t, t, *latent: network.apply({"params": params}, x_t, sigma(t), *latent, method="features"),
        head=lambda params, hidden: network.apply({"params": params}, hidden, method="head")[..., : process.symbols],
        mixture=config.latent,
    )


def denoiser(config: DDiTConfig, process: processes.Absorbing | processes.Uniform) -> Denoiser:
    """The law of a network that gives its logits: of MDLM's log p(x_0 | x_t), SUBS (the mask is no answer; samplers keep clean sites); of Duo's the law of each
    site given the others, to which processes.with_evidence adds what the site itself shows."""
    given = outputs(config, process)
    return given._replace(head=lambda params, hidden: jax.nn.log_softmax(given.head(params, hidden), -1))
