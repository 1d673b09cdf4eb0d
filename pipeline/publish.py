"""Stage `publish`: MLflow becomes an exact mirror of the files. With `--check` it only says where it is none."""

import argparse
import sys
from collections.abc import Sequence

from randomz.lock import LockError, read_lock
from randomz.params import ParamsError, load_params
from randomz.records import Record, RecordError, read_records


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the stage; the exit status is 1 where files or MLflow cannot be used, or where a check finds a difference."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.publish", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; print each difference and exit with 1")
    checks = parser.parse_args(arguments).check
    try:
        params = load_params()
        records = read_records(read_lock(), params)
    except (LockError, ParamsError, RecordError) as error:
        print(f"publish: {error}", file=sys.stderr)
        return 1
    return _mirror(params.publish.experiment, records, checks=checks)


def _mirror(experiment: str, records: list[Record], *, checks: bool) -> int:
    # Its import takes seconds, which wrong files need not wait for.
    from randomz.tracking import TrackingError, check, publish  # noqa: PLC0415

    try:
        differences = check(experiment, records) if checks else []
        written = 0 if checks else publish(experiment, records, print)
    except TrackingError as error:
        print(f"publish: {error}", file=sys.stderr)
        return 1
    for line in differences:
        print(line)
    if not differences:
        print(f"MLflow mirrors dvc.lock: {len(records)} runs, {written} of them new")
    return int(bool(differences))


if __name__ == "__main__":
    sys.exit(main())
