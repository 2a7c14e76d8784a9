"""Di4C on Countdown: mixture students of the trained teacher, beside SDTT, hybrid sampling and LSD+, at NFE 4 and 8.

  python -m jddd.main --config=configs/di4c_countdown.py              compares networks: --config.students.Di4C=runs/di4c_countdown_train/round_1 and so on
  python -m jddd.main --config=configs/di4c_countdown.py:train        trains the Di4C student and its own student ('Di4C twice')
  python -m jddd.main --config=configs/di4c_countdown.py:sdtt         trains the SDTT students
  python -m jddd.main --config=configs/di4c_countdown.py:smoke        a Di4C student in seconds, for tests
"""

from ml_collections import ConfigDict

from jddd import recipes
from jddd.build import DataConfig, defaults
from jddd.compare import CompareConfig
from jddd.distill.lsd import LSDConfig

VARIANTS = ("", "train", "sdtt", "smoke")


def get_config(variant: str = "") -> ConfigDict:
    if variant not in VARIANTS:
        raise ValueError(f"variant is {variant!r}; allowed: nothing, {', '.join(VARIANTS[1:])}")
    config = ConfigDict()
    config.name = "di4c_countdown" + (f"_{variant}" if variant else "")
    config.teacher = "teacher_countdown"
    config.data = defaults(DataConfig, name="countdown", tokenizer="numbers:32", length=256)
    if not variant:
        config.experiment = "compare"
        config.students = ConfigDict({"Di4C": "", "Di4C_twice": "", "SDTT": ""})
        config.distill = defaults(LSDConfig)
        config.report = defaults(CompareConfig, nfe=(4, 8), teacher_steps=64, samples=256, batch=32)
        return config
    if variant == "sdtt":
        return recipes.student(config, "sdtt", rounds=5)
    return recipes.student(config, "di4c", rounds=1 if variant == "smoke" else 2, smoke=variant == "smoke")
