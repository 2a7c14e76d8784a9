"""What samples of a kind of data are worth and how they are shown: text, molecules and Countdown, each as one `Domain`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from jddd import build, countdown, judges, pretrained, report, text_report
from jddd.data import molecules as molecule_data
from jddd.metrics import countdown as countdown_metrics
from jddd.metrics import molecules as molecule_metrics
from jddd.metrics import sequences
from jddd.metrics.generative import JudgeScorer
from jddd.metrics.text import Scorer
from jddd.models import exact

MOLECULE_COLUMNS = {
    "sampler": "sampler", "grid": "grid", "nfe": "NFE", "validity": "valid", "valid": "molecules", "uniqueness": "unique", "novelty": "novel", "entropy_1": "unigram entropy, bits", "entropy_4": "4-gram entropy, bits",
    "internal_diversity": "internal diversity", "logp_distance": "logP distance", "qed_distance": "QED distance", "sa_distance": "SA distance", "weight_distance": "weight distance",
    "scaffold_similarity": "scaffold similarity", "atoms": "atoms", "temperature": "T", "seconds": "seconds", "ratio_to_network_calls": "time / NFE calls",
}  # fmt: skip


class Domain(NamedTuple):
    """columns, headline: of a report's tables (jddd.report); panels: fields to plot against NFE, titles; score: samples (N, L) -> a row's figures, the
    headline's first with an interval; show: samples by name -> HTML; held_out: real data (N, L) to hold them against; note: how to read the figures."""

    columns: dict[str, str]
    headline: list[str]
    panels: dict[str, str]
    score: Callable[[np.ndarray], dict]
    show: Callable[[dict[str, np.ndarray]], str]
    held_out: np.ndarray
    note: str


def _texts(tokenizer, samples: dict[str, np.ndarray]) -> str:
    return report.samples({name: [tokenizer.decode(row) for row in drawn[:3]] for name, drawn in samples.items()})


def scorer(network: build.Network, judge: str, vocabulary: frozenset[str], *, repeats: int) -> Scorer | JudgeScorer:
    """What scores the network's samples of text: a judge of jddd's own, by name or path, which reads the same symbols; or a published one, which reads the
    text (jddd.judges: a folder, a .gguf file or a hub id). Raises ValueError for a network that is no judge or reads other symbols."""
    if not judge:
        raise ValueError("config field judge is ''; allowed: a published judge (a folder with config.json, weights and tokenizer files, a .gguf file or a hub id), or a network of jddd's own that reads the teacher's symbols")
    try:
        if judges.known(judge):
            return JudgeScorer(judges.load(judge), network.tokenizer, vocabulary, repeats)
        found = pretrained.load(judge)
    except ValueError as error:  # a field of the judge's own files would be taken for one of the config
        raise ValueError(f"config field judge is {judge!r}: {error}") from None
    if found.network.process is not None or found.network.tokenizer != network.tokenizer:
        raise ValueError(f"config field judge is {judge!r}; allowed: an autoregressive network with the teacher's symbols, or a published judge: a folder, a .gguf file or a hub id")
    return Scorer(found, vocabulary, repeats)


def text(network: build.Network, corpora: dict, judge: str, *, samples: int, repeats: int) -> Domain:
    """Text, scored by an autoregressive judge; raises ValueError where the judge reads other symbols."""
    score = scorer(network, judge, frozenset(network.tokenizer.decode(corpora["train"].symbols).split(" ")), repeats=repeats)
    published = isinstance(score, JudgeScorer)
    note = "Judge bits fall when samples are merely sharper, so read them beside the entropies; compare entropies at equal sample counts only."
    if published:
        note += f" Generative perplexity: {score.protocol.stated(score.judge)}. Token entropy: of the sampler's symbols within a sample, mean over samples."
    show = functools.partial(_texts, network.tokenizer)
    return Domain(text_report.columns(published), text_report.HEADLINE, text_report.panels(published), score, show, corpora["test"].windows(samples), note)


def molecules(network: build.Network, corpora: dict, *, samples: int, references: int = 2000) -> Domain:
    """Molecules, scored by RDKit against `references` molecules of the test split; raises ValueError where RDKit is missing."""
    decode = lambda drawn: [network.tokenizer.decode(row) for row in drawn]
    real = corpora["test"].windows(samples + references)
    if len(real) < samples + 2:
        raise ValueError(f"config field report.samples is {samples} and the test split has {len(real)} molecules; allowed: two or more left for the reference")
    chosen = np.zeros(len(real), bool)
    chosen[np.linspace(0, len(real) - 1, samples).astype(int)] = True  # evenly spread: the file's order drifts
    held_out = real[chosen]
    training = molecule_metrics.known(molecule_data.lines(corpora["train"].symbols, network.tokenizer))
    reference = molecule_metrics.reference(decode(real[~chosen]), training)

    def score(drawn: np.ndarray) -> dict:
        entropy = lambda n: sequences.entropy(sequences.ngrams(drawn, n))
        return molecule_metrics.score(decode(drawn), reference) | {"entropy_1": entropy(1), "entropy_4": entropy(4)}

    def show(drawn: dict[str, np.ndarray]) -> str:
        return report.section("Samples", *(f"<h3>{name}</h3>" + molecule_metrics.draw(decode(rows[:12])) for name, rows in drawn.items()))

    panels = {"validity": "valid molecules, share", "uniqueness": "distinct, of the valid", "entropy_4": "4-gram entropy, bits"}
    note = (
        "Valid: what RDKit parses as one molecule, nothing after the end. Novel: not in the training set. Distances: Wasserstein-1 to held-out molecules; "
        "those of real molecules are in the table of held-out data. They, diversity and scaffold similarity depend on how many molecules they are of. Scaffold similarity: cosine of scaffold counts."
    )
    return Domain(MOLECULE_COLUMNS, ["validity", "entropy_4"], panels, score, show, held_out, note)


def numbers(network: build.Network, corpora: dict, *, samples: int, repeats: int) -> Domain:
    """Countdown, scored by its rule and its chain."""
    chain = exact.countdown(network.tokenizer.size)
    score = functools.partial(countdown_metrics.score, chain=chain, repeats=repeats)
    panels = {"violation_rate": "violations a site", "restart_distance": "restart distance from uniform", "entropy_4": "4-gram entropy, bits"}
    note = "A violation is a value above 0 followed by anything but one less, over all sites. Restart distance: total variation between the values after a 0 and the uniform law."
    return Domain(countdown.COLUMNS, countdown.HEADLINE, panels, score, functools.partial(_texts, network.tokenizer), corpora["test"].windows(samples), note)


def of(network: build.Network, kind: str, corpora: dict, *, judge: str, samples: int, repeats: int) -> Domain:
    """The domain of a tokenizer's kind: 'smiles', 'numbers' or text."""
    if kind == "smiles":
        return molecules(network, corpora, samples=samples)
    if kind == "numbers":
        return numbers(network, corpora, samples=samples, repeats=repeats)
    return text(network, corpora, judge, samples=samples, repeats=repeats)
