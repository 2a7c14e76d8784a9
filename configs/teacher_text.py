"""Train a text teacher.

  python -m jddd.main --config=configs/teacher_text.py:small      absorbing, 0.8 M parameters
  python -m jddd.main --config=configs/teacher_text.py:uniform    uniform-state, a smaller one
  python -m jddd.main --config=configs/teacher_text.py:base       absorbing, 85 M parameters, for an accelerator
  python -m jddd.main --config=configs/teacher_text.py:smoke      seconds, for tests

The weights land in <workdir>/model.safetensors; those shipped with jddd lie in jddd/pretrained/assets, with their logs.
"""

from ml_collections import ConfigDict

from jddd.build import DataConfig, ModelConfig, OptimConfig, ProcessConfig, TrainConfig, defaults


def get_config(variant: str = "small") -> ConfigDict:
    if variant not in ("small", "uniform", "base", "smoke"):
        raise ValueError(f"variant is {variant!r}; allowed: small, uniform, base, smoke")
    config = ConfigDict()
    config.experiment = "pretrain"
    config.name = f"teacher_text_{variant}"
    config.data = defaults(DataConfig, name="embedded", length=128)
    config.process = defaults(ProcessConfig, name="absorbing")
    config.model = defaults(ModelConfig, width=128, depth=4, heads=2, conv=5)
    config.optim = defaults(OptimConfig, name="muon", learning_rate=5e-3, adam_learning_rate=5e-3, warmup=100, decay_from=0.3)
    config.train = defaults(TrainConfig, steps=3200, batch=64, microbatches=8, floor=0.1, save_every=200, evaluate_every=500)
    if variant == "uniform":
        config.process = defaults(ProcessConfig, name="uniform")
        config.model = defaults(ModelConfig, width=96, depth=3, heads=2, conv=5, time_conditioning=True)
        config.train.steps = 500
    if variant == "base":
        config.data.length = 256
        config.model = defaults(ModelConfig, width=768, depth=12, heads=12, conv=0, dtype="bfloat16")
        config.optim = defaults(OptimConfig, name="adamw", learning_rate=3e-4, warmup=2500)
        config.train = defaults(TrainConfig, steps=100_000, batch=512, microbatches=1, ema=0.9999, save_every=2000, evaluate_every=2000)
    if variant == "smoke":
        config.model = defaults(ModelConfig, width=32, depth=1, heads=1)
        config.data.length = 32
        config.train = defaults(TrainConfig, steps=20, batch=8, microbatches=2, save_every=5, log_every=5, evaluate_every=10)
    return config
