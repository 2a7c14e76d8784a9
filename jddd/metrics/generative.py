"""Generative perplexity: how likely a judge finds samples, by the field's protocol, never without the entropy of the samples beside it.

A judge prefers dull text: a sampler that repeats one word has the best perplexity of all. So one NamedTuple carries both, and there is no function here that
gives a perplexity alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jddd import judges
from jddd.judges import Judge
from jddd.metrics import text

FIRST = ("skip", "start")
MEANS = ("tokens", "sequences")


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How samples are scored. The defaults are MDLM's (Sahoo et al. 2024, whose code SDTT, Duo and Di4C's text experiments go back to), with GPT-2 large.

    length: tokens of the judge that are kept of a sample, what follows is truncated; 0 keeps all.
    window: tokens the judge reads at once; a longer sample is cut into windows side by side, each read afresh; 0 for the judge's context, which is the most.
    first: 'skip' leaves the first token of every window unscored, as it has no probability under the model; 'start' puts the judge's start symbol before a
      window (which then has one token less) and scores all of them.
    mean: 'tokens', exp of the mean over all scored tokens of all samples (MDLM); 'sequences', the mean over samples of exp of their own mean (SEDD, Lou et
      al. 2024), never below the former for samples of equal length, by Jensen's inequality.
    repeated_ends: whether the second and later end-of-text tokens of a window are scored (SEDD: yes; MDLM: no, as they may be padding).
    batch: windows a call of the judge; no figure depends on it."""

    length: int = 1024
    window: int = 1024
    first: str = "skip"
    mean: str = "tokens"
    repeated_ends: bool = False
    batch: int = 8

    def __post_init__(self):
        for field, allowed in (("first", FIRST), ("mean", MEANS)):
            if getattr(self, field) not in allowed:
                raise ValueError(f"protocol {field} is {getattr(self, field)!r}; allowed: {', '.join(allowed)}")
        for field, least in (("length", 0), ("window", 0), ("batch", 1)):
            if getattr(self, field) < least or getattr(self, field) == 1 != least:
                raise ValueError(f"protocol {field} is {getattr(self, field)}; allowed: {'1 or more' if least else '0, or 2 or more'}")

    def stated(self, judge: Judge) -> str:
        """The protocol in a sentence, for a table's caption."""
        window = min(self.window or judge.config.context, judge.config.context)
        first = "first token of a window not scored" if self.first == "skip" else "start symbol before every window, all tokens scored"
        kept = f"samples truncated at {self.length} tokens" if self.length else "samples not truncated"
        mean = "exp of the mean NLL over all tokens" if self.mean == "tokens" else "mean over samples of exp of their mean NLL"
        ends = "" if self.repeated_ends else ", end-of-text tokens after a window's first not scored"
        return f"judge {judge.name}; {kept}; windows of {window} tokens side by side; {first}{ends}; {mean}"


class Rows(NamedTuple):
    """Of every sample, (N,): nll, the sum over its scored tokens in nats; tokens, how many those are; characters, how many they spell; entropy of its
    tokens in nats; truncated, tokens that were cut off."""

    nll: np.ndarray
    tokens: np.ndarray
    characters: np.ndarray
    entropy: np.ndarray
    truncated: np.ndarray


class GenerativePerplexity(NamedTuple):
    """perplexity per token of the judge; nll, nats a token; bits_per_character, which compares judges of different tokenizers; entropy, unigram entropy
    within a sample in nats, mean over samples, of the symbols `entropy_of`. Each with its standard error over samples (nan for one sample). samples, tokens
    (scored), characters (of those) and truncated are counts; protocol says how it was done."""

    perplexity: float
    perplexity_error: float
    nll: float
    nll_error: float
    bits_per_character: float
    bits_per_character_error: float
    entropy: float
    entropy_error: float
    entropy_of: str
    samples: int
    tokens: int
    characters: int
    truncated: int
    protocol: str


def token_entropy(row: np.ndarray) -> float:
    """-sum p log p in nats of the frequencies of a sample's own symbols: the field's diversity figure, log L at most; 0 for an empty one."""
    counts = np.unique(np.asarray(row), return_counts=True)[1]
    p = counts / counts.sum()
    return float(-(p * np.log(p)).sum()) + 0.0


def scored(window: np.ndarray, end: int | None, repeated_ends: bool) -> np.ndarray:
    """Which tokens of a window (n,) count, but for its first: all, or all but the end symbols after the first one."""
    if repeated_ends or end is None:
        return np.ones(len(window), bool)
    is_end = np.asarray(window) == end
    return ~is_end | (np.cumsum(is_end) == 1)


def score(judge: Judge, samples: Sequence[str] | Sequence[np.ndarray] | np.ndarray, protocol: Protocol = Protocol(), *, progress: bool = False) -> Rows:
    """Every sample under the judge. samples: texts, read by the judge's tokenizer, or rows of the judge's own tokens (n,).

    Raises ValueError for tokens outside the judge's vocabulary, and for first='start' where its tokenizer has no start symbol."""
    start = protocol.first == "start"
    if start and judge.tokenizer.start is None:
        raise ValueError(f"protocol first is 'start' and judge {judge.name!r} has no start symbol; allowed: 'skip'")
    tokens = [judge.tokenizer.encode(sample) if isinstance(sample, str) else np.asarray(sample) for sample in samples]
    kept = [row[: protocol.length] if protocol.length else row for row in tokens]
    size = min(protocol.window or judge.config.context, judge.config.context) - start
    pieces = [(i, row[begin : begin + size]) for i, row in enumerate(kept) for begin in range(0, len(row), size)]
    rows = [np.concatenate([[judge.tokenizer.start], piece]) if start else piece for _, piece in pieces]
    log_p = judges.log_likelihood(judge, rows, batch=protocol.batch, progress=progress)
    nll, counts, characters = np.zeros(len(kept)), np.zeros(len(kept), int), np.zeros(len(kept), int)
    for (i, piece), values in zip(pieces, log_p, strict=True):
        mask = scored(piece, judge.tokenizer.end, protocol.repeated_ends)[0 if start else 1 :]
        nll[i] -= np.float64(values[mask]).sum()
        counts[i] += mask.sum()
        characters[i] += len(judge.tokenizer.decode(piece[0 if start else 1 :][mask]))
    return Rows(nll, counts, characters, np.array([token_entropy(row) for row in kept]), np.array([len(a) - len(b) for a, b in zip(tokens, kept)]))


def _ratio(above: np.ndarray, below: np.ndarray) -> tuple[float, float]:
    """sum above / sum below and its standard error over rows, by linearisation (Cochran 1977, section 6.4)."""
    ratio, n = above.sum() / below.sum(), len(above)
    return float(ratio), float(np.sqrt(n / (n - 1) * np.square(above - ratio * below).sum()) / below.sum()) if n > 1 else float("nan")


def _mean(values: np.ndarray) -> tuple[float, float]:
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")


def summary(rows: Rows, judge: Judge, protocol: Protocol = Protocol(), own: Sequence[np.ndarray] | np.ndarray | None = None) -> GenerativePerplexity:
    """All samples together. own: the samples in the sampler's own symbols, whose entropy is then the one that is given, as in the papers; without, it is
    that of the judge's tokens. Raises ValueError where no token was scored or own has another number of samples."""
    some = rows.tokens > 0
    if not some.any():
        raise ValueError(f"{len(rows.tokens)} samples have no token to score; allowed: at least one of two tokens or more")
    if own is not None and len(own) != len(rows.tokens):
        raise ValueError(f"own symbols are given for {len(own)} samples of {len(rows.tokens)}; allowed: as many")
    nll, nll_error = _ratio(rows.nll, rows.tokens)
    if protocol.mean == "tokens":
        perplexity, perplexity_error = float(np.exp(nll)), float(np.exp(nll) * nll_error)
    else:
        perplexity, perplexity_error = _mean(np.exp(rows.nll[some] / rows.tokens[some]))
    bits = _ratio(rows.nll / np.log(2), rows.characters) if rows.characters.any() else (float("nan"), float("nan"))
    entropy = _mean(rows.entropy if own is None else np.array([token_entropy(row) for row in own]))
    counts = len(rows.tokens), int(rows.tokens.sum()), int(rows.characters.sum()), int(rows.truncated.sum())
    of = "the judge's tokens" if own is None else "the sampler's symbols"
    return GenerativePerplexity(perplexity, perplexity_error, nll, nll_error, *bits, *entropy, of, *counts, protocol.stated(judge))


def perplexity(judge: Judge, samples, protocol: Protocol = Protocol(), *, own=None, progress: bool = False) -> GenerativePerplexity:
    """Generative perplexity and entropy of samples, texts or rows of the judge's tokens: `score`, then `summary`."""
    return summary(score(judge, samples, protocol, progress=progress), judge, protocol, own)


class JudgeScorer(NamedTuple):
    """Scores samples of text under a published judge, whatever their own symbols: a Bench's `score`, beside jddd.metrics.text.Scorer.

    tokenizer: of the samples; vocabulary: the words of the training text; repeats: resamples of a bootstrap interval."""

    judge: Judge
    tokenizer: Any
    vocabulary: frozenset[str]
    repeats: int
    protocol: Protocol = Protocol()

    @property
    def params(self) -> Any:
        return self.judge.params

    def _rows(self, texts: list[str]) -> Rows:
        return score(self.judge, texts, self.protocol)

    def bits(self, samples: np.ndarray) -> np.ndarray:
        """The judge's bits a character of each sample (N, L), (N,); nan for one of a single token."""
        return _bits(self._rows([self.tokenizer.decode(row) for row in samples]))

    def __call__(self, samples: np.ndarray) -> dict:
        """All figures of samples (N, L): those of jddd.metrics.text.score, with bits a character of the judge as judge_bits; generative_perplexity of the
        judge's tokens, and beside it token_entropy in nats of the sampler's symbols within a sample, with their intervals (95 %)."""
        texts = [self.tokenizer.decode(row) for row in samples]
        rows = self._rows(texts)
        found = summary(rows, self.judge, self.protocol, own=samples)
        spread = lambda value, error: (value - 1.96 * error, value + 1.96 * error)
        figures = {"generative_perplexity": found.perplexity, "generative_perplexity_interval": spread(found.perplexity, found.perplexity_error)}
        figures |= {"token_entropy": found.entropy, "token_entropy_interval": spread(found.entropy, found.entropy_error)}
        return figures | text.score(np.asarray(samples), _bits(rows), texts, self.vocabulary, repeats=self.repeats)


def _bits(rows: Rows) -> np.ndarray:
    return np.where(rows.characters > 0, rows.nll / np.log(2) / np.maximum(rows.characters, 1), np.nan)
