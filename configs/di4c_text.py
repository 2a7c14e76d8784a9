"""Di4C on text: mixture students of the embedded text teacher, beside SDTT, hybrid sampling and LSD+, at NFE 2 to 32.

  python -m jddd.main --config=configs/di4c_text.py              compares the shipped student, and yours: --config.students.SDTT=runs/di4c_text_sdtt/round_5
  python -m jddd.main --config=configs/di4c_text.py:train        trains the Di4C student and its own student ('Di4C twice')
  python -m jddd.main --config=configs/di4c_text.py:sdtt         trains the SDTT students
  python -m jddd.main --config=configs/di4c_text.py:smoke        a Di4C student in seconds, for tests
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
    if variant == "sdtt":
        return recipes.student(config, "sdtt", rounds=5)
    return recipes.student(config, "di4c", rounds=1 if variant == "smoke" else 2, smoke=variant == "smoke")
