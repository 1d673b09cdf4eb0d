"""`python -m pipeline.compare A [B]` says how the figures of B differ from those of A, with intervals."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from randomz.comparison import as_markdown, as_text, compare
from randomz.files import write_bytes
from randomz.revisions import WORKSPACE, read_results

EPILOG = """\
A and B are git revisions (HEAD~1, a branch, a commit), names of DVC experiments (`dvc exp list`) or workspace, the
files as they stand. For example, what `dvc exp run` has just written against what is committed:

  python -m pipeline.compare HEAD
"""


def main(words: Sequence[str] | None = None) -> int:
    """Print the comparison; where that fails, a line on standard error and exit status 1."""
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.compare",
        description="Compare the figures of every model at two revisions, seed by seed, with 95 % intervals.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("a", metavar="A", help="what is compared with")
    parser.add_argument("b", metavar="B", nargs="?", default=WORKSPACE, help=f"what is compared (default: {WORKSPACE})")
    parser.add_argument("-o", "--output", metavar="FILE.md", type=Path, help="write the tables as Markdown, too")
    parser.add_argument("--all", action="store_true", help="every figure, not only the most telling ones")
    options = parser.parse_args(words)
    try:
        if options.output is not None:
            _refuse_bad_path(options.output)
        a, b = read_results(options.a), read_results(options.b)
        sections = compare(a, b, everything=options.all)
        if options.output is not None:
            write_bytes(options.output, as_markdown(a, b, sections).encode())
    except (ValueError, OSError) as error:
        print(f"compare: {error}", file=sys.stderr)
        return 1
    print(as_text(a, b, sections), end="")
    return 0


def _refuse_bad_path(path: Path) -> None:
    if path.is_dir() or not path.parent.is_dir():
        raise ValueError(f"{path}: cannot be written; a file in a folder that exists is accepted")


if __name__ == "__main__":
    sys.exit(main())
