"""Countdown: all solvers and all schedules where quality is computed, not judged.

  bash launch/local.sh --config=configs/lsd_countdown.py           320 samples (other solvers: 192), under 5 minutes on 2 CPU cores
  bash launch/local.sh --config=configs/lsd_countdown.py:full      2048 samples, all solvers at all NFE, the paper's own objectives too
  bash launch/local.sh --config=configs/lsd_countdown.py:smoke     everything once, small, within a minute

Expected with the exact denoiser: violations a site at NFE 8, 16, 32 at most .040, .017, .009 for LSD+ (uniform grid: .097, .042, .021).
"""

from ml_collections import ConfigDict

from jddd.build import ProcessConfig, defaults
from jddd.countdown import CountdownConfig
from jddd.distill.lsd import LSDConfig


def get_config(variant: str = "") -> ConfigDict:
    if variant not in ("", "full", "smoke"):
        raise ValueError(f"variant is {variant!r}; allowed: nothing, full, smoke")
    config = ConfigDict()
    config.experiment = "countdown"
    config.name = "lsd_countdown" + (f"_{variant}" if variant else "")
    config.trained = "teacher_countdown"
    config.process = defaults(ProcessConfig, name="absorbing")
    config.distill = defaults(LSDConfig)
    config.report = defaults(CountdownConfig)
    if variant == "full":
        config.report = defaults(CountdownConfig, paper_nfe=(8,), samples=2048, solver_samples=2048, reference_samples=512, trained_samples=512, solver_nfe=(4, 8, 16, 32, 64), trained_nfe=(4, 8, 16, 32), bootstrap=1000)
    if variant == "smoke":
        config.trained = ""
        config.distill = defaults(LSDConfig, steps=60, batch=4, rounds=1, teacher_steps=16)
        config.report = defaults(
            CountdownConfig, symbols=8, length=32, nfe=(4, 8), solver_nfe=(8,), paper_nfe=(), trained_nfe=(), samples=32, solver_samples=32, reference_samples=32, batch=32, windows=32, bootstrap=20
        )  # fmt: skip
    del config.distill.learn_times  # LSD and LSD+ are both learned
    return config
