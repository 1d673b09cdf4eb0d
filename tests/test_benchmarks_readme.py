from pathlib import Path

import pytest

from benchmarks import readme, train
from benchmarks.readme import filled, parts

ROOT = Path(__file__).parent.parent


def test_the_committed_file_holds_the_committed_results():
    text = (ROOT / readme.README).read_text(encoding="utf-8")
    assert filled(text, parts(ROOT / train.RESULTS)) == text, "run python -m benchmarks.readme"


def test_what_has_no_result_reads_not_measured(tmp_path):
    assert set(map(tuple, parts(tmp_path).values())) == {("not measured",)}


def test_parts_are_rewritten_and_the_rest_stays():
    text = "a\n\n<!-- x -->\nold\n\n| t |\n<!-- end -->\nb\n<!-- y -->\n<!-- end -->\n"
    once = filled(text, {"x": ["new", "two"], "y": ["z"]})
    assert once == "a\n\n<!-- x -->\n\nnew\ntwo\n\n<!-- end -->\nb\n<!-- y -->\n\nz\n\n<!-- end -->\n"
    assert filled(once, {"x": ["new", "two"], "y": ["z"]}) == once
    with pytest.raises(KeyError):
        filled(text, {"x": []})
