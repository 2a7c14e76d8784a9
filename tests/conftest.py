"""Eight CPU devices, types checked on every call, and a warm compilation cache."""

import os
from pathlib import Path

import jax
import pytest
from jaxtyping import install_import_hook

CACHE = Path(os.environ.get("JDDD_CACHE", Path.home() / ".cache" / "jddd"))
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_compilation_cache_dir", str(CACHE / "compiled"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
install_import_hook("jddd", "beartype.beartype")

FIXTURES = Path(__file__).parent / "fixtures"


@pytest.fixture
def golden():
    """golden(name) -> the arrays of the authors' code (tests/fixtures/name.npz)."""
    import numpy as np

    return lambda name: np.load(FIXTURES / f"{name}.npz")


@pytest.fixture
def key():
    return jax.random.key(0)
