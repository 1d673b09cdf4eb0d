"""Do dvc.lock and reports/ match code and params? Says what `dvc repro` would run on this commit, and why.

`--against` compares the figures of this tree, run again, with those of a commit or of another folder.
"""

import argparse
import sys
from collections.abc import Sequence

from randomz.drift import find_drift


def main(words: Sequence[str] | None = None) -> int:
    """Print one line a difference, or a table of figures; the exit status is 1 where something does not match."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.drift", description=__doc__)
    parser.add_argument(
        "--against", metavar="COMMIT|FOLDER", help="whose dvc.lock and reports/ the figures are held against"
    )
    parser.add_argument("--exact", action="store_true", help="with --against: no tolerance, as on the same machine")
    options = parser.parse_args(words)
    if options.exact and not options.against:
        parser.error("--exact is of use with --against only")
    try:
        return _figures(options.against, exact=options.exact) if options.against else _gate()
    except (ValueError, OSError) as error:
        print(f"drift: {error}", file=sys.stderr)
        return 1


def _gate() -> int:
    drift = find_drift()
    for line in drift.lines():
        print(line)
    if drift.unseen:
        print(f"not here, so not compared: {len(drift.unseen)} outputs of dvc.yaml, first {drift.unseen[0]}")
    if not drift.reasons:
        print("dvc.lock, params, code and committed reports match: nothing would run")
    return int(bool(drift.reasons))


def _figures(against: str, *, exact: bool) -> int:
    # Its import takes seconds, which the gate need not wait for.
    from randomz.rerun import compare, snapshot  # noqa: PLC0415

    with snapshot(against) as committed:
        comparison = compare(committed, exact=exact)
    print(comparison.markdown(against))
    return int(not comparison.holds)


if __name__ == "__main__":
    sys.exit(main())
