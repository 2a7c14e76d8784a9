"""Train the judge: an autoregressive model of the same family, which scores samples in bits a character.

  python -m jddd.main --config=configs/judge_text.py          0.8 M parameters
  python -m jddd.main --config=configs/judge_text.py:smoke    seconds, for tests
"""

from ml_collections import ConfigDict

from jddd.build import DataConfig, ModelConfig, OptimConfig, TrainConfig, defaults


def get_config(variant: str = "small") -> ConfigDict:
    if variant not in ("small", "smoke"):
        raise ValueError(f"variant is {variant!r}; allowed: small, smoke")
    config = ConfigDict()
    config.experiment = "pretrain"
    config.name = f"judge_text_{variant}"
    config.data = defaults(DataConfig, name="embedded", length=128)
    config.model = defaults(ModelConfig, width=128, depth=4, heads=2, conv=5, causal=True)
    config.optim = defaults(OptimConfig, name="muon", learning_rate=5e-3, adam_learning_rate=5e-3, warmup=100, decay_from=0.3)
    config.train = defaults(TrainConfig, steps=750, batch=64, microbatches=8, seed=1, save_every=200, evaluate_every=500)
    if variant == "smoke":
        config.model = defaults(ModelConfig, width=32, depth=1, heads=1, causal=True)
        config.data.length = 32
        config.train = defaults(TrainConfig, steps=20, batch=8, microbatches=2, seed=1, save_every=5, log_every=5, evaluate_every=10)
    return config
