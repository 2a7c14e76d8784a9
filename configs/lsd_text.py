"""LSD and LSD+ on real text: distil samplers of 4 to 64 network calls from the shipped teacher, compare, report.

  bash launch/local.sh --config=configs/lsd_text.py           64 samples of 128 characters, within 10 minutes on 2 CPU cores
  bash launch/local.sh --config=configs/lsd_text.py:full      512 samples, the shipped numbers, about an hour on 2 CPU cores
  bash launch/local.sh --config=configs/lsd_text.py:smoke     everything once, under 90 seconds

Your own text: --config.data.path=FILE (the words and the profile then come from it). Your own networks: --config.teacher=FILE.safetensors.
"""

from ml_collections import ConfigDict

from jddd.build import DataConfig, defaults
from jddd.distill.lsd import LSDConfig
from jddd.experiment import ReportConfig


def get_config(variant: str = "") -> ConfigDict:
    if variant not in ("", "full", "smoke"):
        raise ValueError(f"variant is {variant!r}; allowed: nothing, full, smoke")
    config = ConfigDict()
    config.experiment = "distill"
    config.name = "lsd_text" + (f"_{variant}" if variant else "")
    config.teacher = "teacher_text"
    config.judge = "judge_text"
    config.data = defaults(DataConfig)
    del config.data.length, config.data.tokenizer  # the teacher's
    config.distill = defaults(LSDConfig)
    config.report = defaults(ReportConfig, batch=16, match_samples=32, temperatures=(0.8,))  # 16 rows stay in a CPU's cache; raise it on an accelerator
    if variant == "full":
        config.report = defaults(ReportConfig, batch=16, samples=512, profile_windows=128, bootstrap=1000, temperatures=(0.8,))
    if variant == "smoke":
        config.distill = defaults(LSDConfig, steps=60, batch=4, rounds=1, teacher_steps=16)
        config.report = defaults(
            ReportConfig, nfe=(4, 8), extra_nfe=(4,), claim_nfe=(4,), samples=8, batch=8, teacher_steps=16, profile_windows=32, match_samples=8,
            bootstrap=20, confidences=((0.0, 0.0), (3.0, 3.0)), temperatures=(0.8,),
        )  # fmt: skip
    del config.distill.learn_times  # LSD and LSD+ are both learned
    return config
