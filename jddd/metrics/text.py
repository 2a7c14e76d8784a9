"""What samples of text are worth: a judge's code length, spelled words, and the entropies to read them beside."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jddd import losses, pretrained
from jddd.metrics.sequences import bootstrap, distinct, entropy, jackknife, ngrams
from jddd.types import Denoiser


def whole_words(text: str) -> list[str]:
    """The words of a sample that are not cut by its ends."""
    return text.split(" ")[1:-1]


def spelled(texts: list[str], vocabulary: frozenset[str]) -> np.ndarray:
    """Share of each sample's whole words that occur in the training text, (N,); nan for a sample with none."""
    shares = []
    for text in texts:
        words = [word for word in whole_words(text) if word]
        shares.append(np.mean([word in vocabulary for word in words]) if words else np.nan)
    return np.array(shares)


@functools.partial(jax.jit, static_argnames=("denoiser", "start_id"))
def _code_length(params, x, *, denoiser, start_id):
    return losses.autoregressive(params, x, denoiser=denoiser, start_id=start_id).mean(-1) / jnp.log(2.0)


def judge_bits(params, samples: np.ndarray, *, denoiser: Denoiser, start_id: int, length: int, batch: int = 64) -> np.ndarray:
    """Code length of each sample in bits a symbol under the causal judge, (N,). Samples longer than the judge's window are scored in pieces."""
    pieces = [samples[:, i : i + length] for i in range(0, samples.shape[1], length)]
    total = np.zeros(len(samples))
    for piece in pieces:
        padded = np.pad(piece, ((0, -len(piece) % batch), (0, 0)))
        bits = [_code_length(params, jnp.asarray(padded[i : i + batch], jnp.int32), denoiser=denoiser, start_id=start_id) for i in range(0, len(padded), batch)]
        total += np.concatenate(bits)[: len(samples)] * piece.shape[1]
    return total / samples.shape[1]


def score(samples: np.ndarray, bits: np.ndarray, texts: list[str], vocabulary: frozenset[str], *, repeats: int = 200) -> dict[str, float | list[float]]:
    """All figures of samples (N, L) with the judge's bits (N,), nan for those it cannot score: judge_bits, the mean of the others, and, beside it, entropy_1
    and entropy_4 in bits, words, distinct_4; judge_bits_error, its standard error; unscored, how many were not; intervals (95 %) under the same names with
    '_interval'."""
    one, four, words = ngrams(samples, 1), ngrams(samples, 4), spelled(texts, vocabulary)
    mean = lambda values: float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")
    scored = bits[np.isfinite(bits)]
    statistics = {
        "judge_bits": lambda index: mean(bits[index]),
        "entropy_1": lambda index: entropy(one[index]),
        "entropy_4": lambda index: entropy(four[index]),
        "words": lambda index: mean(words[index]),
        "distinct_4": lambda index: distinct(four[index]),
    }
    everything = np.arange(len(samples))
    result: dict = {"judge_bits_error": float(scored.std(ddof=1) / np.sqrt(len(scored))) if len(scored) > 1 else float("nan"), "unscored": len(bits) - len(scored)}
    for name, statistic in statistics.items():
        result[name] = statistic(everything)
        if name in ("judge_bits", "words"):
            result[f"{name}_interval"] = bootstrap(statistic, len(samples), repeats=repeats)
    # A resample repeats rows, which lowers a plug-in entropy; the jackknife over blocks of rows does not.
    for name in ("entropy_1", "entropy_4"):
        result[f"{name}_interval"] = jackknife(statistics[name], len(samples))
    return result


class Scorer(NamedTuple):
    """Scores samples of text, a Bench's `score`. vocabulary: the words of the training text; repeats: resamples of a bootstrap interval."""

    judge: pretrained.Pretrained
    vocabulary: frozenset[str]
    repeats: int

    @property
    def tokenizer(self) -> Any:
        return self.judge.network.tokenizer

    @property
    def params(self) -> Any:
        return self.judge.params

    def bits(self, samples: np.ndarray) -> np.ndarray:
        """The judge's bits a symbol of each sample, (N,)."""
        network = self.judge.network
        return judge_bits(self.judge.params, samples, denoiser=network.denoiser, start_id=network.tokenizer.size, length=network.length)

    def __call__(self, samples: np.ndarray) -> dict:
        """All figures of samples (N, L), see `score`."""
        texts = [self.tokenizer.decode(row) for row in samples]
        return score(samples, self.bits(samples), texts, self.vocabulary, repeats=self.repeats)
