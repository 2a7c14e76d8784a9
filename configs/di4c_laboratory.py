"""Di4C where quality is computed exactly: one-step students of all-equal data (4 sites, 3 symbols), by the number of distinct latents.

  python -m jddd.main --config=configs/di4c_laboratory.py           all-equal data
  python -m jddd.main --config=configs/di4c_laboratory.py:random    a random joint of nonnegative rank at most 3
  python -m jddd.main --config=configs/di4c_laboratory.py:smoke     seconds, for tests

The gap t - u is 1/1024: a teacher's step of gap g from all masks reveals contradicting symbols with a probability of order g^2, which the student learns too:
gaps of 1/64 to 1/16 end at a TV of .026 whatever the rest.

Expected: the product's one step has a TV of 26/27 = .963 to all-equal data, the student's with 3 or more latents at most .02.
"""

from ml_collections import ConfigDict

from jddd.build import ModelConfig, OptimConfig, TrainConfig, defaults
from jddd.di4c_laboratory import LaboratoryConfig
from jddd.distill.di4c import Di4CConfig


def get_config(variant: str = "") -> ConfigDict:
    if variant not in ("", "random", "smoke"):
        raise ValueError(f"variant is {variant!r}; allowed: nothing, random, smoke")
    config = ConfigDict()
    config.experiment = "di4c_laboratory"
    config.name = "di4c_laboratory" + (f"_{variant}" if variant else "")
    config.model = defaults(ModelConfig, width=32, depth=1, heads=2, latent=True, positions=True)
    config.distill = defaults(Di4CConfig, latents=32, stratified=True, near=0.05, near_share=0.2, start_share=0.3, target="teacher", shape="constant", scale=0.5)
    config.optim = defaults(OptimConfig, name="adamw", learning_rate=1e-3, warmup=20, decay_from=0.3)
    config.train = defaults(TrainConfig, steps=1500, batch=32, ema=0.99, save_every=200, evaluate_every=100)
    config.report = defaults(LaboratoryConfig, data="random", distinct=(1, 2, 3, 0)) if variant == "random" else defaults(LaboratoryConfig)
    if variant == "smoke":
        config.distill = defaults(Di4CConfig, latents=4, start_share=0.3)
        config.train = defaults(TrainConfig, steps=6, batch=8, save_every=3, log_every=3, evaluate_every=3)
        config.report = defaults(LaboratoryConfig, symbols=2, sites=2, distinct=(2, 0), chain=2, latents=8)
    return config
