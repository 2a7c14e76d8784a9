"""The notebooks run from their first cell to their last, each in a kernel of its own, offline, at small size."""

import ast
from pathlib import Path

import jax
import nbclient
import nbformat
import pytest

COLABS = Path(__file__).parent.parent / "colabs"


@pytest.fixture
def executed(monkeypatch, tmp_path):
    """executed(name) -> the notebook with its outputs; an error in a cell raises. The kernel shares the tests' compilation cache."""
    cache = dict(JAX_COMPILATION_CACHE_DIR=jax.config.jax_compilation_cache_dir, JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0", JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES="-1")
    for name, value in dict(JDDD_SMALL="1", JUPYTER_PREFER_ENV_PATH="1", IPYTHONDIR=str(tmp_path / "ipython"), **cache).items():
        monkeypatch.setenv(name, value)

    def run(name, **environment):
        for variable, value in environment.items():
            monkeypatch.setenv(variable, value)
        notebook = nbformat.read(COLABS / name, 4)
        return nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()

    return run


def test_laboratory(executed):
    """Beside its own assertions: the numbers of its last cell."""
    notebook = executed("laboratory.ipynb", JAX_DISABLE_MOST_OPTIMIZATIONS="1")  # nearly all of its time is compilation
    results = ast.literal_eval(notebook.cells[-1].outputs[-1]["data"]["text/plain"])
    assert len(results["2N TV"]) == 4 and all(abs(value - 1) < 1e-9 for value in results["2N TV"])
    assert abs(results["slopes"]["theta_trapezoidal"] + 2) < 0.1 and abs(results["slopes"]["euler"] + 1) < 0.1
    assert results["mixture"] < 1e-6 < 0.1 < min(results["best of all grids"])
    assert results["best c"] == 1.2
    figures = [output for cell in notebook.cells for output in cell.get("outputs", []) if "image/png" in output.get("data", {})]
    assert len(figures) == 4


@pytest.mark.slow
def test_lsd_text(executed):
    """The printed samples are 12 rows of 128 characters."""
    notebook = executed("lsd_text.ipynb")
    printed = "".join(output.get("text", "") for output in notebook.cells[-1].outputs if output.get("name") == "stdout")
    rows = [line[3:] for line in printed.splitlines() if line.startswith("   ")]
    assert [len(row) for row in rows] == [128] * 12
