"""The published transformer and its usual sampler in PyTorch, from the equations, as a yardstick: what jddd's sampler is timed against.

The network is that of jddd.models.ddit, with torch's fused attention; the sampler does what PyTorch samplers of masked diffusion do: a full head, a softmax
over the vocabulary at every site, and float32 Gumbel noise of shape B x L x V (Sahoo et al. 2024; Lou et al. 2024).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F


class TorchDDiT:
    """Weights by their published names (jddd.pretrained.layouts.from_params) and a forward pass on tokens (B, L)."""

    def __init__(self, weights: dict[str, torch.Tensor], depth: int, heads: int):
        self.w, self.depth, self.heads = weights, depth, heads
        half = weights["vocab_embed.embedding"].shape[1] // heads // 2
        self.frequencies = 10_000.0 ** (-torch.arange(half) / half)

    def linear(self, x, name):
        return F.linear(x, self.w[f"{name}.weight"], self.w.get(f"{name}.bias"))

    def norm(self, x, name, shift, scale):
        return F.layer_norm(x, x.shape[-1:], self.w[f"{name}.weight"], None, 1e-5) * (1 + scale) + shift

    def rotate(self, x):
        angle = torch.arange(x.shape[-2])[:, None] * self.frequencies
        a, b = x.chunk(2, -1)
        return torch.cat([a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()], -1)

    @torch.inference_mode()
    def __call__(self, tokens: torch.Tensor) -> torch.Tensor:
        """Logits (B, L, S); the noise level is 0, as MDLM's unconditioned networks see it."""
        features = torch.cat([torch.ones(len(tokens), 128), torch.zeros(len(tokens), 128)], -1)
        condition = F.silu(self.linear(F.silu(self.linear(features, "sigma_map.mlp.0")), "sigma_map.mlp.2"))
        x = F.embedding(tokens, self.w["vocab_embed.embedding"])
        for i in range(self.depth):
            block = f"blocks.{i}."
            shift1, scale1, gate1, shift2, scale2, gate2 = self.linear(condition, block + "adaLN_modulation")[:, None].chunk(6, -1)
            q, k, v = (y.unflatten(-1, (self.heads, -1)).transpose(1, 2) for y in self.linear(self.norm(x, block + "norm1", shift1, scale1), block + "attn_qkv").chunk(3, -1))
            a = F.scaled_dot_product_attention(self.rotate(q), self.rotate(k), v)
            x = x + gate1 * self.linear(a.transpose(1, 2).flatten(2), block + "attn_out")
            h = self.linear(self.norm(x, block + "norm2", shift2, scale2), block + "mlp.0")
            x = x + gate2 * self.linear(F.gelu(h, approximate="tanh"), block + "mlp.2")
        shift, scale = self.linear(condition, "output_layer.adaLN_modulation")[:, None].chunk(2, -1)
        return self.linear(self.norm(x, "output_layer.norm_final", shift, scale), "output_layer.linear")


@torch.inference_mode()
def sample(network: TorchDDiT, batch: int, length: int, steps: int, mask: int, generator: torch.Generator) -> torch.Tensor:
    """Ancestral sampling of a masked process with the linear schedule on a uniform grid: samples (B, L); `steps` network calls.

    q(x_s | x_t) at a masked site is p(x_0) (t - s) / t on the symbols and s / t on the mask; clean sites stay."""
    x = torch.full((batch, length), mask)
    for k in range(steps):
        t, s = 1 - k / steps, 1 - (k + 1) / steps
        logits = network(x)
        logits[..., mask] = -math.inf
        q = logits.softmax(-1) * ((t - s) / t)
        q[..., mask] = s / t
        drawn = (q / (1e-10 - torch.log(torch.rand(q.shape, generator=generator) + 1e-10))).argmax(-1)  # Gumbel's maximum as a race of exponentials: one log
        x = torch.where(x == mask, drawn, x)
    return x
