"""The report as people meet it: opened, on a phone, in the dark, by keyboard, with a screen reader's rules, on paper."""

import time
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page

PHONE = {"width": 360, "height": 740}


@pytest.fixture
def opened(chromium: Browser, report: Path):
    """Open the report with options of a browser context; afterwards there must be no error of any kind."""
    complaints: list[str] = []
    contexts = []

    def go(**options) -> Page:
        context = chromium.new_context(**options)
        contexts.append(context)
        context.on(
            "request", lambda asked: asked.url.startswith(("file:", "data:")) or complaints.append(asked.url)
        )
        page = context.new_page()
        page.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: complaints.append(dialog.message))
        page.goto(report.as_uri())
        return page

    yield go
    for context in contexts:
        context.close()
    assert complaints == []


def test_it_opens_within_a_second_and_nothing_of_a_models_text_runs(opened, report):
    page = opened()
    spent = page.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd")
    print(f"opened in {spent:.0f} ms, {report.stat().st_size:,} bytes")
    assert 0 < spent < 1000
    assert page.title() == "demo · self-rewarding run"
    assert page.locator("script").count() == 0
    assert page.locator("main img").count() == 0
    assert page.locator("body").is_visible()
    page.locator("details.pair").first.evaluate("one => one.open = true")
    assert page.locator("details.pair .answers").first.is_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_axe_finds_nothing(opened, scheme, width):
    page = opened(color_scheme=scheme, viewport={"width": width, "height": 800}, bypass_csp=True)
    page.evaluate("document.querySelectorAll('details').forEach((one, n) => one.open = n < 30)")
    found = Axe().run(page).response["violations"]
    assert [f"{one['impact']} {one['id']}: {one['nodes'][0]['html'][:200]}" for one in found] == []


@pytest.mark.parametrize("width", [320, 360, 768, 1280])
def test_it_never_scrolls_sideways(opened, width):
    page = opened(viewport={"width": width, "height": 740})
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    beyond = page.evaluate(
        """() => [...document.querySelectorAll('main *')].filter(one => !one.closest('.scroll, pre, svg')
            && one.getBoundingClientRect().right > innerWidth + 1).map(one => one.outerHTML.slice(0, 100))"""
    )
    assert beyond == []


def test_charts_are_readable_on_a_phone(opened):
    page = opened(viewport=PHONE)
    heights = page.evaluate(
        "[...document.querySelectorAll('.chart svg text')].map(one => one.getBoundingClientRect().height)"
    )
    assert heights
    assert round(min(heights), 2) >= 7  # the browser has its heights in 64ths of a pixel


def test_dark_mode_changes_page_and_charts(opened):
    seen = {}
    for scheme in ("light", "dark"):
        page = opened(color_scheme=scheme)
        seen[scheme] = page.evaluate(
            """() => [getComputedStyle(document.body).backgroundColor,
                getComputedStyle(document.querySelector('.chart svg text')).fill,
                getComputedStyle(document.querySelector('.chart svg .x')?.closest('svg') ?? document.body).color]"""
        )
    assert brightness(seen["light"][0]) > 200 > 60 > brightness(seen["dark"][0])
    assert brightness(seen["light"][1]) < 80 < 180 < brightness(seen["dark"][1])


def brightness(color: str) -> float:
    return sum(float(part) for part in color.removeprefix("rgb(").rstrip(")").split(",")) / 3


def focused(page: Page) -> str:
    return page.evaluate("(document.activeElement.textContent || '').trim().slice(0, 40)")


def test_all_can_be_reached_and_opened_by_keyboard(opened):
    page = opened()
    page.keyboard.press("Tab")
    assert focused(page) == "Skip to the results"
    assert page.locator(".skip").bounding_box()["x"] >= 0
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert focused(page).startswith("Did it get better?")
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    # From the first pair on: open it, leaf to the next one, close again.
    page.locator("details.pair > summary").first.focus()
    assert not page.locator("details.pair").first.evaluate("one => one.open")
    page.keyboard.press("Enter")
    assert page.locator("details.pair").first.evaluate("one => one.open")
    assert page.locator("details.pair .answers").first.is_visible()
    page.keyboard.press("Tab")
    assert "judgement" in focused(page)
    page.keyboard.press("Space")
    assert page.locator("details.judgements").first.evaluate("one => one.open")
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Space")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement === document.querySelectorAll('details.pair > summary')[1]")


def test_sections_are_reached_by_their_links_and_not_hidden_by_the_bar(opened):
    page = opened(viewport=PHONE)
    for name in ("progress", "judge", "alarms", "data", "cost", "pairs", "manifest"):
        page.locator(f"nav a[href='#{name}']").click()
        page.wait_for_function(f"location.hash === '#{name}'")
        page.wait_for_timeout(700)
        top = page.locator(f"#{name} h2").bounding_box()["y"]
        bar = page.locator("nav").bounding_box()
        assert top >= bar["y"] + bar["height"] - 1 or name == "manifest", name


def test_hostile_texts_stay_in_their_place_and_order(opened):
    page = opened()
    page.evaluate("document.querySelectorAll('details.pair').forEach(one => one.open = true)")
    assert page.locator("main > section").count() == 8
    texts = page.locator("bdi.text").all_inner_texts()
    assert any("<script>document.title = 'taken'</script>" in text for text in texts)
    assert not any(char in text for text in texts for char in "\u202e\u2067\u200f\0\x1b")
    assert any("U+202E" in text for text in texts)
    assert any("more characters are not shown" in text for text in texts)
    directions = page.locator("bdi.text").evaluate_all("all => [...new Set(all.map(one => one.dir))]")
    assert directions == ["auto"]


def test_print_has_the_numbers_and_no_bars(opened, tmp_path):
    page = opened()
    page.emulate_media(media="print")
    assert not page.locator("nav").is_visible()
    assert page.locator("#chart-win-rate td").first.is_visible()
    page.pdf(path=tmp_path / "report.pdf")
    assert (tmp_path / "report.pdf").stat().st_size > 20_000


def test_ten_thousand_pairs_a_round_are_one_small_page_that_opens_at_once(chromium, tmp_path):
    """The bars are for a machine that does other things too; what it takes alone is for tests/bench/report_build.py."""
    from tests.local.report.conftest import page_of
    from tests.support.finished_run import finished_run

    run = finished_run(tmp_path / "run", iterations=4, prompts=10_200)
    started = time.process_time()
    path = page_of(run, tmp_path / "report.html")
    built = time.process_time() - started
    page = chromium.new_page()
    page.goto(path.as_uri())
    spent = page.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd")
    page.close()
    print(f"built in {built:.1f} s of CPU time, {path.stat().st_size:,} bytes, opened in {spent:.0f} ms")
    assert built < 10
    assert path.stat().st_size < 3_000_000
    assert spent < 5000
