"""Samples of a finished run from the shell:

python -m jddd.sample --run=runs/lsd_text --nfe=8 --count=4 --prefix="in the beginning "
python -m jddd.sample --run=runs/lsd_text --template="the lord ____ unto moses"
"""

from __future__ import annotations

import argparse
import sys

from jddd import runs


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m jddd.sample", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", default="runs/lsd_text", help="folder of a finished run (default: %(default)s)")
    parser.add_argument("--sampler", default="", help="a sampler of its table, by how its name begins (default: 'LSD+ spread', else 'LSD+')")
    parser.add_argument("--nfe", type=int, default=8, help="network calls (default: %(default)s)")
    parser.add_argument("--count", type=int, default=4, help="samples (default: %(default)s)")
    parser.add_argument("--length", type=int, default=0, help="symbols a sample (default: the teacher's length)")
    parser.add_argument("--prefix", default="", help="text every sample begins with")
    parser.add_argument("--template", default="", help="a text in which each _ is one symbol to fill in")
    parser.add_argument("--seed", type=int, default=0)
    options = vars(parser.parse_args(arguments))
    try:
        run = runs.load(options.pop("run"))
        print(*run.sample(options.pop("sampler"), **options), sep="\n")
    except ValueError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
