"""Train a Countdown teacher with the score-entropy loss, as SEDD does.

  python -m jddd.main --config=configs/teacher_countdown.py          256 sites, 32 values
  python -m jddd.main --config=configs/teacher_countdown.py:smoke    seconds, for tests

The weights shipped with jddd lie in jddd/pretrained/assets, with their log.
"""

from ml_collections import ConfigDict

from jddd.build import DataConfig, ModelConfig, OptimConfig, ProcessConfig, TrainConfig, defaults


def get_config(variant: str = "small") -> ConfigDict:
    if variant not in ("small", "smoke"):
        raise ValueError(f"variant is {variant!r}; allowed: small, smoke")
    config = ConfigDict()
    config.experiment = "pretrain"
    config.name = f"teacher_countdown_{variant}"
    config.data = defaults(DataConfig, name="countdown", tokenizer="numbers:32", length=256)
    config.process = defaults(ProcessConfig, name="absorbing")
    config.model = defaults(ModelConfig, width=96, depth=3, heads=2, conv=9, scores=True)
    config.optim = defaults(OptimConfig, name="muon", learning_rate=5e-3, adam_learning_rate=5e-3, warmup=100, decay_from=0.3)
    config.train = defaults(TrainConfig, steps=1500, batch=16, microbatches=4, save_every=200, evaluate_every=500)
    if variant == "smoke":
        config.model = defaults(ModelConfig, width=32, depth=1, heads=1, conv=5, scores=True)
        config.data = defaults(DataConfig, name="countdown", tokenizer="numbers:8", length=32)
        config.train = defaults(TrainConfig, steps=20, batch=8, microbatches=2, save_every=5, log_every=5, evaluate_every=10)
    return config
