"""Di4C on text: mixture students of the embedded text teacher, beside SDTT, hybrid sampling and LSD+, at NFE 2 to 32.

  python -m jddd.main --config=configs/di4c_text.py              compares the shipped student, and yours: --config.students.SDTT=runs/di4c_text_sdtt/round_5
  python -m jddd.main --config=configs/di4c_text.py:train        trains the Di4C student and its own student ('Di4C twice')
  python -m jddd.main --config=configs/di4c_text.py:sdtt         trains the SDTT students
  python -m jddd.main --config=configs/di4c_text.py:smoke        a Di4C student in seconds, for tests
"""

from ml_collections import ConfigDict

from jddd.build import DataConfig, OptimConfig, TrainConfig, defaults
from jddd.compare import CompareConfig
from jddd.distill.di4c import Di4CConfig
from jddd.distill.lsd import LSDConfig
from jddd.distill.sdtt import SDTTConfig

VARIANTS = ("", "train", "sdtt", "smoke")


def get_config(variant: str = "") -> ConfigDict:
    if variant not in VARIANTS:
        raise ValueError(f"variant is {variant!r}; allowed: nothing, {', '.join(VARIANTS[1:])}")
    config = ConfigDict()
    config.name = "di4c_text" + (f"_{variant}" if variant else "")
    config.teacher = "teacher_text"
    config.data = defaults(DataConfig)
    if not variant:
        config.experiment = "compare"
        config.judge = "judge_text"
        config.students = ConfigDict({"Di4C": "di4c_text", "Di4C_twice": "", "SDTT": ""})
        config.distill = defaults(LSDConfig)
        config.report = defaults(CompareConfig, nfe=(2, 4, 8, 16, 32), samples=256, batch=16)
        return config
    config.experiment = "student"
    config.method = "di4c"
    config.rounds = 2
    config.distill = defaults(Di4CConfig, latents=8, stratified=True, target="teacher", near_share=0.03, start_share=0.1, gap_low=1 / 256, gap_high=1 / 64, shape="constant", scale=1.0)
    config.optim = defaults(OptimConfig, name="adamw", learning_rate=5e-4, latent_rate=4.0, warmup=50, decay_from=0.5, clip=10.0)
    config.train = defaults(TrainConfig, steps=1000, batch=8, microbatches=1, ema=0.99, save_every=100, log_every=20, evaluate_every=400)
    if variant == "sdtt":
        config.method = "sdtt"
        config.rounds = 5
        config.distill = defaults(SDTTConfig, step=1 / 256)
        config.train = defaults(TrainConfig, steps=200, batch=32, microbatches=4, ema=0.98, save_every=100, log_every=20, evaluate_every=200)
    if variant == "smoke":
        config.rounds = 1
        config.distill = defaults(Di4CConfig, latents=2, near_share=0.5)
        config.train = defaults(TrainConfig, steps=4, batch=2, microbatches=1, save_every=2, log_every=2, evaluate_every=2)
    return config
