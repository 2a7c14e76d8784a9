"""The command line: python -m jddd.main --config=configs/lsd_text.py [--workdir=DIR] [--config.field=value ...]."""

from __future__ import annotations

import sys
from pathlib import Path

from absl import app, flags, logging
from ml_collections import config_flags

_CONFIG = config_flags.DEFINE_config_file("config", None, "The experiment: a file of configs/, with an optional :variant.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Where the run is written (default: runs/<config name>). A run that is there is resumed.")


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}; everything is a flag, as in --config=configs/lsd_text.py")
    logging.set_verbosity(logging.ERROR)  # absl resets it when it parses flags
    import jax

    from jddd import compare, countdown, di4c_laboratory, experiment, pretrain, rounds
    from jddd.data.text import default_cache

    jax.config.update("jax_compilation_cache_dir", str(default_cache() / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)

    config = _CONFIG.value
    experiments = {"pretrain": pretrain.run, "distill": experiment.run, "countdown": countdown.run, "student": rounds.run, "compare": compare.run, "di4c_laboratory": di4c_laboratory.run}
    workdir = Path(_WORKDIR.value or Path("runs") / config.name)
    workdir.mkdir(parents=True, exist_ok=True)
    try:
        if config.experiment not in experiments:
            raise ValueError(f"config field experiment is {config.experiment!r}; allowed: {', '.join(experiments)}")
        metrics = experiments[config.experiment](config, workdir)
    except (ValueError, FloatingPointError) as error:
        sys.exit(f"error: {error}")
    print({k: v for k, v in metrics.items() if not isinstance(v, (list, dict))})


def parse(argv):
    """Flags, with one line for a field a config does not have (absl's own answer is a traceback)."""
    try:
        return app.parse_flags_with_usage(argv)
    except (AttributeError, KeyError) as error:
        sys.exit(f"error: a --config.field flag names no field of the config: {' '.join(str(error.args[0]).split())}")


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    app.run(main, flags_parser=parse)
