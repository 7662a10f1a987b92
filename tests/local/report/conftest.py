"""A real Chromium (Debian's), driven by Playwright, and the page of a run in it."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright
from tests.support.finished_run import FinishedRun, finished_run

from selfrewarding.api.run import AlarmStatus
from selfrewarding.report.collect import collect, load
from selfrewarding.report.page import render

CHROMIUM = next((path for name in ("chromium", "chromium-browser") if (path := shutil.which(name))), None)
HOSTILE = (
    "<script>document.title = 'taken'</script><img src=x onerror=\"document.title = 'taken'\">",
    "</bdi></div></details></main><style>* { display: none }</style>\u202eright to left\u2067 \u200f",
    "שלום עולם! زیبا 한국어 문장입니다. \0\x1b[31m",
)


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip(
            "NO CHROMIUM: the report is not tested in a browser; as root on Debian: apt-get install chromium"
        )
    with sync_playwright() as playwright:
        # Chromium's own sandbox does not start as root; the pages are ours and have no network.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


def page_of(run: FinishedRun, to: Path) -> Path:
    """Write the report of a run."""
    to.write_text(
        render(collect(run.store, run.run, load(run.store, run.stages), run.story)), encoding="utf-8"
    )
    return to


@pytest.fixture(scope="session")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a run whose texts are hostile in part, and long in part."""
    folder = tmp_path_factory.mktemp("report")
    texts = (*HOSTILE, "word " * 300, "a" * 1_000_000, "One paragraph.\n\n" * 12)
    alarm = AlarmStatus(
        name="scoreLengthCorrelation", iteration=3, action="Warn", value=0.83, threshold=0.8,
        message="The correlation of an answer's score with its length is 0.83: the judge rewards length.",
    )  # fmt: skip
    run = finished_run(
        folder / "run", prompts=80, alarms=[alarm],
        text_of=lambda prompt, answer: f"{prompt}.{answer} {texts[(prompt + answer) % len(texts)]}",
    )  # fmt: skip
    return page_of(run, folder / "report.html")
