"""Where answers looked, of a real sweep, in a headless Chromium at two widths and both schemes."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from playwright.sync_api import Locator

from ctx_tasks import looks
from ctx_tasks.leaderboard.board import board
from ctx_tasks.report import page as report
from ctx_tasks.results import read_runs
from tests.commands import ctx_eval
from tests.ctx_tasks.report.test_report_browser import CONTRAST, WIDTHS, Watched, browser

__all__ = ["browser"]
pytestmark = [pytest.mark.browser, pytest.mark.slow]

PLAN = {
    "checkpoints": [{"name": "chat", "model_args": {"pretrained": "nano-chat"}}],
    "arms": ["raw", "chat", {"alpha": 0.01}],
    "begun": False,
    "tasks": ["nano_nih_recall"],
    "metadata": {"lengths": 1, "depths": 2, "max_length": 600},
    "batch_size": 2,
    "device": "cpu",
    "attention": True,
}
ARMS = ["raw", "chat", "chat, α 0.01 constant"]


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("looks")
    plan = folder / "sweep.yaml"
    plan.write_text(yaml.safe_dump({**PLAN, "output": str(folder / "out")}))
    done = ctx_eval("sweep", plan)
    assert done.code == 0, done.err
    report.write(board(read_runs([folder / "out"])), folder / "report.html")
    return folder / "report.html"


@pytest.fixture(params=WIDTHS)
def opened(request, browser, file):
    page = browser.new_page(viewport={"width": request.param, "height": 900})
    found = Watched(page)
    page.goto(file.as_uri())
    page.locator(".open").first.click()
    yield page
    assert found.heard == [f"request: {file.as_uri()}"]
    page.close()


def colour(element: Locator) -> str:
    return str(element.evaluate("e => getComputedStyle(e).backgroundColor"))


def test_arms_stand_side_by_side_where_there_is_room(opened):
    panes = opened.locator("#look-list > li")
    assert panes.locator("h4").all_inner_texts() == ARMS
    tops = [round(pane.bounding_box()["y"]) for pane in panes.all()]
    wide = opened.viewport_size["width"] > 1000
    assert len(set(tops)) == (1 if wide else 3)
    dialog = "document.getElementById('document')"
    assert opened.evaluate(f"{dialog}.scrollWidth - {dialog}.clientWidth") <= 0
    assert "The first 2 show where the answers looked" in opened.locator("#how-many").inner_text()


def test_the_prompt_is_whole_and_its_colours_are_those_of_the_legend(opened):
    for number, pane in enumerate(opened.locator("#look-list pre").all()):
        opened.get_by_label("Prompt of").select_option(label=ARMS[number])
        plain = opened.locator("#prompt").evaluate("e => e.textContent")
        assert pane.evaluate("e => e.textContent") == plain
        marked = "".join(opened.locator("#prompt mark").all_text_contents())
        coloured = pane.locator("[class^=look-]")
        assert coloured.count() > 3
        assert all(text in marked for text in coloured.all_text_contents())
        step = coloured.first.get_attribute("class")
        assert colour(coloured.first) == colour(opened.locator(f".look-key .{step}"))
    assert opened.locator("#look-list .look-8").count() > 0
    steps = opened.locator(".look-key [class^=look-]").all()
    assert len({colour(step) for step in steps}) == len(steps) == 8


def test_shares_are_written_out_beside_the_colours(opened):
    raw, chat, steered = (pane.inner_text() for pane in opened.locator("#look-list > li").all())
    assert "template" not in raw.split("Mean of")[0]
    assert "template" in chat.split("Mean of")[0]
    shares = [float(said.split("user's text ")[1].split(" %")[0]) for said in (chat, steered)]
    assert shares[0] < shares[1]
    assert "Mean of 4 tokens; most on “" in chat
    assert "% a token and more" in opened.locator("#look-words").inner_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_coloured_text_has_contrast_in_both_schemes(browser, file, scheme):
    page = browser.new_page(color_scheme=scheme)
    page.goto(file.as_uri())
    page.locator(".open").first.click()
    assert page.locator("#look-list .look-8").count() > 0
    assert page.evaluate(CONTRAST)["low"] == []
    page.close()


def test_a_document_without_looks_has_no_such_part(browser, file, tmp_path):
    """Its files emptied, the page is as it was before there were any."""
    emptied = {path: path.read_bytes() for path in file.parent.rglob("attention_*")}
    for path in emptied:
        looks.write(path, [])
    report.write(board(read_runs([file.parent / "out"])), tmp_path / "report.html")
    for path, content in emptied.items():
        path.write_bytes(content)
    page = browser.new_page()
    page.goto((tmp_path / "report.html").as_uri())
    page.locator(".open").first.click()
    assert page.get_by_role("dialog").is_visible()
    assert not page.locator("#looks").is_visible()
    assert "looked" not in page.locator("#how-many").inner_text()
    page.close()
