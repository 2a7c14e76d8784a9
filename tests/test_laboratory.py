"""The laboratory's tables rest on the exact laws of the library; its optima are checked against search."""

import jax
import numpy as np
import pytest

from jddd import grids, laboratory, sampling
from jddd.models import exact


def test_no_grid_beats_the_best():
    """Random grids of 4 steps, and small moves of the best one, are no better on all-equal data but for the table's resolution."""
    chance = lambda times: laboratory.chance_of_all_equal(times[:-1], times[1:], 3, 4).sum()
    best, generator = laboratory.best_times(4, 3, 4), np.random.default_rng(0)
    for _ in range(200):
        drawn = np.sort(generator.uniform(size=3))[::-1]
        moved = best[1:-1] + generator.normal(size=3) / 100
        assert max(chance(np.array([1.0, *inner, 0.0])) for inner in (drawn, moved)) < chance(best) + 1e-4


def test_no_product_law_is_nearer():
    """Gradient-free search over product laws of three sites, with sites of their own: TV to all-equal data is at least what the table says."""
    generator, overlap = np.random.default_rng(0), lambda p: np.minimum(p.prod(0), 1 / 3).sum()
    best = 0.0
    for _ in range(30):
        p, scale = generator.dirichlet(np.ones(3), 3), 0.3
        for _ in range(400):
            q = np.abs(p + scale * generator.normal(size=p.shape))
            q /= q.sum(-1, keepdims=True)
            p, scale = (q, scale) if overlap(q) >= overlap(p) else (p, scale * 0.985)
        best = max(best, overlap(p))
    with jax.enable_x64(True):
        table = laboratory.correlations(counts=())
    np.testing.assert_allclose(1 - best, table[1]["TV"], atol=2e-3)
    assert 1 - best > table[1]["TV"] - 1e-9 and table[-1]["TV"] < 1e-9


def test_markdown():
    assert laboratory.markdown([{"a": 0.123456, "b": 3}]) == "| a | b |\n|---|---|\n| 0.1235 | 3 |"


def test_all_equal_by_both_ways():
    """The closed form of P(correct) and the propagated law."""
    with jax.enable_x64(True):
        times, law = grids.cosine(3), exact.all_equal(3, 4, 1e-12)
        found = 1 - laboratory.error(laboratory.output(law, (3, 4), sampling.plain(times)), law)
        np.testing.assert_allclose(found, laboratory.chance_of_all_equal(times[:-1], times[1:], 3, 4).sum(), atol=1e-7)


def test_command(tmp_path, capsys):
    """One table by name, with its plot; an unknown one is refused."""
    laboratory.main(["copy_law", f"--out={tmp_path}"])
    assert "| 16 | 0.03125 | 1 |" in capsys.readouterr().out and (tmp_path / "copy_law.png").stat().st_size > 10_000
    with pytest.raises(SystemExit):
        laboratory.main(["copies"])
    assert "no table copies; allowed: copy_law, schedules" in capsys.readouterr().err
