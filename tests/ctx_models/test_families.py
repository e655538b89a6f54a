"""Every causal family of the installed transformers is steered right, or refused by name."""

from __future__ import annotations

import re
from collections import Counter

import pytest
import transformers

from tests.ctx_models import families_page as page
from tests.ctx_models.families import causal_families

TEXT = page.PAGE.read_text(encoding="utf-8")
LISTED = dict(re.findall(r"^\| (\S+) \| (right|refused|not built) \|", TEXT, re.MULTILINE))
# Of another transformers the page says nothing: its families are judged, but not looked up.
SAME_VERSION = f" with transformers {transformers.__version__}, " in TEXT


@pytest.mark.slow
@pytest.mark.parametrize("family", causal_families())
def test_a_family_is_right_or_refused_by_name_as_the_page_says(family: str) -> None:
    verdict = page.judged_alone(family)
    assert verdict.kind != "wrong", verdict
    if verdict.kind == "refused":
        named = family.replace("_", "").replace("-", "")
        assert named[:4] in verdict.reason.replace("_", "").replace("-", "").lower(), verdict
    # Whether a model can be built depends on packages that are installed or not.
    if SAME_VERSION and LISTED[family] != "not built":
        assert page.row(verdict) in TEXT.splitlines(), f"write the page again: {page.__doc__}"


def test_the_page_lists_every_family_once_and_counts_them() -> None:
    assert len(LISTED) > 100
    rows = [line for line in TEXT.splitlines() if line.startswith("| ")]
    assert len(rows) == 1 + len(LISTED)
    for kind, count in Counter(LISTED.values()).items():
        assert f"*{kind}* ({count}): " in TEXT
    if SAME_VERSION:
        assert list(LISTED) == causal_families()
