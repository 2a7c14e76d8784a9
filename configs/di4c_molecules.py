"""Di4C on molecules: mixture students of the molecule teacher, beside SDTT, hybrid sampling and LSD+, at NFE 2 to 16.

  python -m jddd.main --config=configs/di4c_molecules.py              compares networks; needs jddd[molecules]
  python -m jddd.main --config=configs/di4c_molecules.py:train        trains the Di4C student (and its own student, 'Di4C twice')
  python -m jddd.main --config=configs/di4c_molecules.py:sdtt         trains the SDTT students
  python -m jddd.main --config=configs/di4c_molecules.py:smoke        a Di4C student in seconds, for tests
  python -m jddd.main --config=configs/di4c_molecules.py:smoke_table  the comparison at toy size, for tests

The students: --config.students.Di4C=runs/di4c_molecules_train/round_1 and so on; '' leaves one out. None ships yet: the shipped teacher's samples are valid
in 22 % at 256 steps, which is too little to distil; a better one is to come from configs/teacher_molecules.py.
"""

from ml_collections import ConfigDict

from jddd.build import DataConfig, OptimConfig, TrainConfig, defaults
from jddd.compare import CompareConfig
from jddd.distill.di4c import Di4CConfig
from jddd.distill.lsd import LSDConfig
from jddd.distill.sdtt import SDTTConfig

VARIANTS = ("", "train", "sdtt", "smoke", "smoke_table")


def get_config(variant: str = "") -> ConfigDict:
    if variant not in VARIANTS:
        raise ValueError(f"variant is {variant!r}; allowed: nothing, {', '.join(VARIANTS[1:])}")
    config = ConfigDict()
    config.name = "di4c_molecules" + (f"_{variant}" if variant else "")
    config.teacher = "teacher_molecules"
    config.data = defaults(DataConfig, name="molecules", tokenizer="smiles", length=58)
    if variant in ("", "smoke_table"):
        config.experiment = "compare"
        config.students = ConfigDict({"Di4C": "", "Di4C_twice": "", "SDTT": ""})
        config.distill = defaults(LSDConfig)
        config.report = defaults(CompareConfig)
        if variant == "smoke_table":
            config.distill = defaults(LSDConfig, steps=60, batch=4, rounds=1, teacher_steps=16)
            config.report = defaults(CompareConfig, nfe=(4,), teacher_steps=8, samples=8, batch=8, cost_windows=32, bootstrap=20)
        return config
    config.experiment = "student"
    config.method = "di4c"
    config.rounds = 2
    config.distill = defaults(Di4CConfig, latents=8, stratified=True, target="teacher", near_share=0.03, start_share=0.1, gap_low=1 / 256, gap_high=1 / 64, shape="constant", scale=1.0)
    config.optim = defaults(OptimConfig, name="adamw", learning_rate=5e-4, latent_rate=4.0, warmup=50, decay_from=0.5, clip=10.0)
    config.train = defaults(TrainConfig, steps=1200, batch=16, microbatches=2, ema=0.995, save_every=100, log_every=20, evaluate_every=400)
    if variant == "sdtt":
        config.method = "sdtt"
        config.rounds = 5
        config.distill = defaults(SDTTConfig, step=1 / 256)
        config.train = defaults(TrainConfig, steps=200, batch=64, microbatches=4, ema=0.98, save_every=100, log_every=20, evaluate_every=200)
    if variant == "smoke":
        config.rounds = 2
        config.distill = defaults(Di4CConfig, latents=2, near_share=0.5, teacher_latents=2)
        config.train = defaults(TrainConfig, steps=6, batch=4, microbatches=2, save_every=3, log_every=3, evaluate_every=3)
    return config
