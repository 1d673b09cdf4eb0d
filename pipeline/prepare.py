"""Stage `prepare`: MNIST, verified and split, as data/{train,validation,test}.safetensors."""

import sys
from pathlib import Path

from randomz.mnist import MnistError, prepare
from randomz.params import load_params

SOURCE = Path("data/raw")
TARGET = Path("data")


def main() -> int:
    """Run the stage; the exit status is 1 where MNIST cannot be had."""
    config = load_params().prepare
    try:
        counts = prepare(SOURCE, TARGET, config.validation, config.seed)
    except MnistError as error:
        print(f"prepare: {error}", file=sys.stderr)
        return 1
    for name, count in counts.items():
        print(f"{TARGET / name}.safetensors: {count} images")
    return 0


if __name__ == "__main__":
    sys.exit(main())
