"""BLEU of symbols (Papineni et al. 2002) and self-BLEU (Zhu et al. 2018): how alike samples are, 100 for copies, low for diverse ones."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence

import numpy as np


def _grams(row: Sequence[Hashable], n: int) -> Counter:
    return Counter(zip(*(row[i:] for i in range(n))))


def bleu(hypothesis: Sequence[Hashable], references: Sequence[Sequence[Hashable]], *, order: int = 4) -> float:
    """Sentence BLEU x 100 with uniform weights on 1 .. order-grams, clipped counts and the brevity penalty of the closest reference length (the shorter
    one of two as close). An order without a match counts 0.1 of one n-gram (smoothing method 1 of Chen & Cherry 2014); 0 where not even a symbol matches."""
    logs = []
    for n in range(1, order + 1):
        counts = _grams(hypothesis, n)
        known = Counter()
        for reference in references:
            known |= _grams(reference, n)
        matches = (counts & known).total()
        if n == 1 and not matches:
            return 0.0
        logs.append(math.log((matches or 0.1) / max(counts.total(), 1)))
    closest = min(map(len, references), key=lambda length: (abs(length - len(hypothesis)), length))
    penalty = 1.0 if len(hypothesis) > closest else math.exp(1 - closest / len(hypothesis))
    return 100 * penalty * math.exp(math.fsum(logs) / order)


def self_bleu(samples: np.ndarray | Sequence[Sequence[Hashable]], *, order: int = 4) -> float:
    """Mean BLEU of each sample against all others; 2 at least. For many continuations of prefixes the field takes the mean of this over prefixes.

    Raises ValueError for fewer than two samples."""
    rows = [list(row) if not isinstance(row, np.ndarray) else row.tolist() for row in samples]
    if len(rows) < 2:
        raise ValueError(f"self-BLEU of {len(rows)} samples; allowed: 2 or more")
    return float(np.mean([bleu(row, rows[:i] + rows[i + 1 :], order=order) for i, row in enumerate(rows)]))
