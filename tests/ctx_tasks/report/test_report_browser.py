"""The report in a headless Chromium: it sorts, filters, opens a document, and runs nothing foreign.

Every page here is full of text that would run if it were taken for markup, in names of checkpoints
and tasks, in documents and in answers; each test ends by looking whether any of it ran.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from ctx_tasks.leaderboard.board import board
from ctx_tasks.report import page as report
from ctx_tasks.results import read_runs
from tests.ctx_tasks.report import report_data

pytestmark = pytest.mark.browser

# The same text without what a file name cannot hold.
NAME = "<img src=x onerror=window.pwned=1>"
WIDTHS = (1280, 390)
# Three checkpoints in four arms, three of them with the answer begun too.
ROWS = 3 * 7
FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    found = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chrome")
    assert found, "install Chromium (Debian: apt-get install chromium)"
    with sync_playwright() as playwright:
        # Playwright gives each start a new user data folder of its own.
        started = playwright.chromium.launch(executable_path=found, args=list(FLAGS))
        yield started
        started.close()


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    names = [f"{NAME}</script><script>window.pwned=1</script>", "model-b", "a" * 120]
    report_data.write(
        folder / "runs",
        checkpoints=names,
        tasks=[*report_data.TASKS, NAME],
        text=report_data.HOSTILE,
        size=4000,
        begun=True,
    )
    report.write(board(read_runs([folder / "runs"])), folder / "report.html")
    return folder / "report.html"


class Watched:
    """A page, and what it said, asked for, or failed at."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.heard: list[str] = []
        page.on("console", lambda message: self.heard.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: self.heard.append(f"error: {error}"))
        page.on("dialog", lambda dialog: self.heard.append(f"dialog: {dialog.message}"))
        page.on("request", lambda request: self.heard.append(f"request: {request.url}"))


@pytest.fixture(params=WIDTHS)
def watched(request, browser, file) -> Iterator[Watched]:
    page = browser.new_page(viewport={"width": request.param, "height": 900})
    found = Watched(page)
    page.goto(file.as_uri())
    yield found
    assert page.evaluate("window.pwned") is None
    assert found.heard == [f"request: {file.as_uri()}"]
    page.close()


def column(page: Page, place: int) -> list[str]:
    """First words of a column's visible cells."""
    cells = page.locator(f"#table tbody tr:visible > :nth-child({place})")
    return [text.replace("≈", "").split()[0] for text in cells.all_inner_texts() if text.strip()]


def test_a_click_on_a_heading_sorts_and_says_so(watched):
    page = watched.page
    heading = page.locator("#table th", has_text="SQuAD")
    for order, backwards in (("descending", True), ("ascending", False)):
        heading.get_by_role("button").click()
        values = [float(text) for text in column(page, 4)]
        assert len(values) == ROWS
        assert len(set(values)) > 1
        assert values == sorted(values, reverse=backwards)
        assert heading.get_attribute("aria-sort") == order
        assert page.locator("#said").inner_text() == (
            f"{ROWS} of {ROWS} rows, sorted by SQuAD, {order}"
        )
    assert (
        page.locator('#table th[aria-sort="none"]').count()
        == page.locator("#table th[aria-sort]").count() - 1
    )


def test_rows_without_a_value_stand_last_in_either_order(watched):
    page = watched.page
    # The last three columns: taxes of three checkpoints, their gains begun and unbegun.
    for place, name, count in ((3, "template tax", 3), (2, "gain, begun", 3), (1, "unbegun", 6)):
        button = page.locator("#table th", has_text=name).last.get_by_role("button")
        for _ in range(2):
            button.click()
            cells = page.locator(f"#table tbody tr > :nth-last-child({place})").all_inner_texts()
            assert all(re.search(r" to .*\nn = ", text) for text in cells[:count])
            assert not any(text.strip() for text in cells[count:])


def test_the_keyboard_reaches_and_sorts_every_column(watched):
    page = watched.page
    page.locator("#filter").focus()
    page.keyboard.press("Tab")  # the scrolling box
    for _ in range(2):
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.locator('#table th[aria-sort="ascending"]').inner_text().startswith("arm")
    names = column(page, 2)
    assert names == sorted(names)


def test_the_filter_takes_words_in_any_order_and_counts_what_is_left(watched):
    page = watched.page
    page.get_by_label("Filter by checkpoint or arm").fill("CHAT model-b")
    assert column(page, 1) == ["model-b"] * 5
    assert page.locator("#said").inner_text() == f"5 of {ROWS} rows"
    page.get_by_label("Filter by checkpoint or arm").fill("onerror=")
    assert page.locator("#said").inner_text() == f"7 of {ROWS} rows"
    page.get_by_label("Filter by checkpoint or arm").fill("")
    assert len(column(page, 1)) == ROWS


def test_a_document_opens_with_the_users_text_marked_and_all_arms_beside_each_other(watched):
    page = watched.page
    page.get_by_label("Checkpoint").last.select_option("model-b")
    page.get_by_label("Task").select_option("SQuAD")
    assert page.locator("#how-many").inner_text().startswith("12 of 12 documents are in this page")
    page.locator(".open").first.click()
    dialog = page.get_by_role("dialog")
    assert dialog.is_visible()
    assert dialog.locator("#answers h4").all_inner_texts() == [
        *("raw, prefix", "raw", "chat, prefix", "chat", "chat, α 0.9 constant"),
        *("chat, prefix, α 0.5 constant", "chat, α 0.5 constant"),
    ]
    verdicts = dialog.locator("#answers li > span").all_inner_texts()
    assert verdicts[:3] == ["✓ hit", "✓ hit", "✗ miss"]
    # Foreign text is there to be read, character by character.
    said = dialog.locator("#answers pre").nth(3).evaluate("element => element.textContent")
    assert said.startswith("chat says 1 " + report_data.HOSTILE[:60])
    marked = dialog.locator("#prompt mark").evaluate_all("all => all.map(e => e.textContent)")
    assert marked[0].startswith("1 </script><script>")
    assert "What is in passage 1?" in marked[-1]
    assert "<|user|>" not in "".join(marked)
    assert dialog.locator("#prompt .template").first.evaluate("e => e.textContent") == (
        "<|system|>\n</s>\n<|user|>\n"
    )
    assert "characters left out" in dialog.locator("#prompt .cut").first.inner_text()
    dialog.get_by_label("Prompt of").select_option(label="raw")
    assert dialog.locator("#found").inner_text().startswith("No template")


def test_documents_are_leafed_through_and_left_by_keyboard(watched):
    page = watched.page
    page.locator(".open").nth(1).focus()
    page.keyboard.press("Enter")
    assert "2 of " in page.locator("#place").inner_text()
    page.locator("#next").click()
    assert "3 of " in page.locator("#place").inner_text()
    page.locator("#previous").press("Enter")
    page.locator("#previous").press("Enter")
    assert page.locator("#previous").is_disabled()
    page.keyboard.press("Escape")
    assert not page.locator("#document").is_visible()
    assert page.evaluate("document.activeElement.className") == "open"


def test_the_page_does_not_scroll_sideways_open_or_closed(watched):
    page = watched.page
    sideways = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    for details in page.locator("details").all():
        details.evaluate("element => { element.open = true; }")
    assert page.evaluate(sideways) <= 0
    page.locator(".open").first.click()
    inside = "(() => { const d = document.getElementById('document');"
    assert page.evaluate(f"{inside} return d.scrollWidth - d.clientWidth; }})()") <= 0


def test_a_box_that_scrolls_sideways_says_so_and_no_other(watched):
    page = watched.page
    for details in page.locator("details").all():
        details.evaluate("element => { element.open = true; }")
    page.locator(".hint:visible").first.wait_for()
    boxes = page.locator(".scroll").evaluate_all(
        """boxes => boxes.map(box =>
            [box.scrollWidth > box.clientWidth, box.previousElementSibling.offsetHeight > 0,
             box.previousElementSibling.textContent])"""
    )
    assert all("sideways" in said for _, _, said in boxes)
    assert [wide for wide, *_ in boxes] == [hinted for _, hinted, _ in boxes]


def test_a_screen_reader_finds_landmarks_headings_and_names(watched):
    page = watched.page
    for role in ("banner", "navigation", "main", "contentinfo"):
        assert page.get_by_role(role).count() == 1
    sections = page.locator("main section")
    assert sections.count() == 7
    for section in sections.all():
        name = section.get_attribute("aria-labelledby")
        assert page.locator(f"h2#{name}").inner_text()
    for link in page.locator("nav a").all():
        assert page.locator(link.get_attribute("href")).count() == 1
    levels = page.locator("h1, h2, h3, h4").evaluate_all(
        "all => all.map(e => Number(e.tagName[1]))"
    )
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    nameless = """[...document.querySelectorAll('button, input, select, svg[role=img]')].filter(
        e => !(e.getAttribute('aria-label') || e.textContent.trim() || e.labels?.length))"""
    assert page.evaluate(f"{nameless}.length") == 0
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the results"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"


# WCAG 2: relative luminance of each text's colour against the nearest ground that is painted.
CONTRAST = """() => {
  const parts = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = (colour) => {
    const [r, g, b] = parts(colour).slice(0, 3).map((c) => c / 255)
      .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const found = getComputedStyle(e).backgroundColor;
      if ((parts(found)[3] ?? 1) > 0) return found;
    }
    return "rgb(255, 255, 255)";
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const low = [];
  let count = 0;
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const element = node.parentElement;
    if (!node.data.trim() || !element.getClientRects().length || element.closest("svg")) continue;
    count += 1;
    const pair = [light(getComputedStyle(element).color), light(ground(element))];
    const ratio = (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
    if (ratio < 4.5) low.push(`${element.className} ${node.data.slice(0, 30)} ${ratio}`);
  }
  return { count, low };
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_has_contrast_in_both_schemes(browser, file, scheme):
    page = browser.new_page(color_scheme=scheme)
    page.goto(file.as_uri())
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert ground == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(20, 23, 28)")
    page.locator(".open").first.click()
    found = page.evaluate(CONTRAST)
    assert found["count"] > 200
    assert found["low"] == []
    page.close()


def test_even_markup_that_got_in_would_not_run_or_fetch(browser, file):
    """The policy alone, with the escaping taken away by hand."""
    page = browser.new_page()
    page.goto(file.as_uri())
    came: list[str | None] = []
    page.on("requestfailed", lambda request: came.append(request.failure))
    page.on("response", lambda response: came.append(response.url))
    page.evaluate(
        """() => {
          document.body.insertAdjacentHTML("beforeend",
            "<img src=data:x onerror='window.pwned=1'><a id=bad href='javascript:window.pwned=1'>" +
            "x</a><img src='http://127.0.0.1:9/x.png'><style>body { display: none }</style>");
          const script = document.createElement("script");
          script.textContent = "window.pwned = 1";
          document.body.append(script);
          document.getElementById("bad").click();
        }"""
    )
    page.wait_for_timeout(200)
    assert page.evaluate("window.pwned") is None
    assert page.evaluate("getComputedStyle(document.body).display") == "block"
    assert came == ["csp"]
    page.close()


def test_without_script_the_table_and_figures_are_there(browser, file):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(file.as_uri())
    assert page.locator("#table tbody tr").count() == ROWS
    assert page.locator("figure svg").first.is_visible()
    assert not page.locator("#filter").is_visible()
    assert "switched off" in page.locator("#documents").inner_text()
    context.close()


def test_print_leaves_out_what_paper_cannot_do(browser, file):
    page = browser.new_page(color_scheme="dark")
    page.goto(file.as_uri())
    page.emulate_media(media="print")
    assert not page.locator("#filter").is_visible()
    assert not page.locator("nav").is_visible()
    assert page.locator("#table").is_visible()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    page.close()
