"""`python -m pipeline.experiment NAME` asks a question of experiments.yaml and writes reports/experiments/NAME.json."""

import argparse
import sys
from collections.abc import Sequence

from randomz.experiments import command, find_experiment, load_experiments, run_experiment
from randomz.stage import run_stage


def main(words: Sequence[str] | None = None) -> int:
    """Run an experiment or say what there is; where that fails, a line on standard error and exit status 1."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.experiment", description=__doc__)
    asked = parser.add_mutually_exclusive_group(required=True)
    asked.add_argument("name", nargs="?", help="of an entry of experiments.yaml")
    asked.add_argument("--list", action="store_true", help="print every name with its question")
    parser.add_argument("--command", action="store_true", help="only print the line that is run")
    parser.add_argument("--dirty", action="store_true", help="run with uncommitted changes, too")
    options = parser.parse_args(words)
    try:
        experiments = load_experiments()
        if options.list:
            print("\n".join(f"{name}: {entry.question}" for name, entry in experiments.items()))
            return 0
        experiment = find_experiment(experiments, options.name)
        print(command(options.name, experiment), flush=True)
    except ValueError as error:
        print(f"experiment: {error}", file=sys.stderr)
        return 1
    if options.command:
        return 0
    return run_stage(
        f"experiment@{options.name}",
        lambda: print(run_experiment(options.name, experiment, dirty=options.dirty)),
    )


if __name__ == "__main__":
    sys.exit(main())
