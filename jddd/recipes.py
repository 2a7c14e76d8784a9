"""What configs of one kind share: the training of network students, Di4C or SDTT, of any teacher. A config file says what is its own on top."""

from __future__ import annotations

from ml_collections import ConfigDict

from jddd.build import OptimConfig, TrainConfig, defaults
from jddd.distill.di4c import Di4CConfig
from jddd.distill.sdtt import SDTTConfig


def student(config: ConfigDict, method: str, *, rounds: int, smoke: bool = False) -> ConfigDict:
    """The config with the sections of a student's training. method: 'di4c', whose latents serve a sampler's own steps (see Di4CConfig.step_low), of those of
    NFE 4 to 16, or 'sdtt'; smoke: seconds, for tests."""
    config.experiment, config.method, config.rounds = "student", method, rounds
    config.optim = defaults(OptimConfig, name="adamw", learning_rate=5e-4, latent_rate=4.0, warmup=50, decay_from=0.5, clip=10.0)
    if method == "sdtt":
        config.distill = defaults(SDTTConfig, step=1 / 256)
        config.train = defaults(TrainConfig, steps=200, batch=32, microbatches=2, ema=0.98, save_every=100, log_every=20, evaluate_every=200)
        return config
    config.distill = defaults(
        Di4CConfig, latents=16, stratified=True, target="teacher", near_share=0.0, start_share=0.1, gap_low=1 / 256, gap_high=1 / 64, shape="constant", scale=1.0, step_low=1 / 16, step_high=1 / 4, consistency=0.0
    )
    config.train = defaults(TrainConfig, steps=1200, batch=8, microbatches=1, ema=0.995, save_every=100, log_every=20, evaluate_every=400)
    if smoke:
        config.distill = defaults(Di4CConfig, latents=2, near_share=0.5, teacher_latents=2)
        config.train = defaults(TrainConfig, steps=6, batch=4, microbatches=2, save_every=3, log_every=3, evaluate_every=3)
    return config
