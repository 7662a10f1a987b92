"""The page: one file, no script, nothing from elsewhere, and no text of a model that does anything."""

import dataclasses
import re
from html.parser import HTMLParser

import pytest
from tests.support.finished_run import finished_run

from selfrewarding.api.run import AlarmStatus, ModelStatus
from selfrewarding.report.collect import collect, load
from selfrewarding.report.page import PAIRS_BYTES, render
from selfrewarding.report.story import Answer, IterationStory, Judgement, Pair, Pairs, Timeline, Turn

VOID = {"meta", "link", "br", "img", "path", "use", "rect"}
HOSTILE = (
    "<script>alert(1)</script>",
    "</bdi></div></details></main></body><script>document.title='taken'</script>",
    '"><img src=x onerror="alert(1)"> onmouseover=alert(1) ',
    "&lt;script&gt; &#60;b&#62; <!-- <svg onload=alert(1)>",
    "\u202eright to left\u202c \u2067isolated\u2069 \u200fmark \u061c",
    "bell\a null\0 escape\x1b[31m line\u2028para\u2029",
    "{{ 7 * 7 }}{% include '/etc/passwd' %}<style>*{display:none}</style>",
    "</style><style>body{display:none}",
    "javascript:alert(1) data:text/html,<b>",
    "]]></svg><foreignObject>",
)


class Page(HTMLParser):
    """Elements, attributes and text of a page, with a check that all that is opened is closed."""

    def __init__(self, markup: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(markup)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag, f"{tag} closes something else"

    def handle_data(self, data):
        self.text += data

    def having(self, attribute):
        return [attributes[attribute] for _, attributes in self.elements if attribute in attributes]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    alarm = AlarmStatus(
        name="scoreLengthCorrelation", iteration=3, action="Stop", value=0.91, threshold=0.8,
        message="The judge rewards length.",
    )  # fmt: skip
    return finished_run(tmp_path_factory.mktemp("run"), prompts=50, alarms=[alarm])


@pytest.fixture(scope="module")
def story(run):
    return collect(run.store, run.run, load(run.store, run.stages), run.story)


@pytest.fixture(scope="module")
def markup(story):
    return render(story)


@pytest.fixture(scope="module")
def page(markup):
    return Page(markup)


def test_it_is_whole_and_asks_nothing_from_elsewhere(page, markup):
    assert page.open == []
    assert not {"script", "iframe", "object", "embed", "base", "form", "foreignobject"} & {
        tag for tag, _ in page.elements
    }
    for name in ("src", "href", "xlink:href", "action", "data", "srcset"):
        assert all(value.startswith(("#", "data:,")) for value in page.having(name)), name
    assert "@import" not in markup
    assert set(re.findall(r"url\(([^)]{0,1})", markup)) <= {"#"}
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    [policy] = [
        found["content"]
        for tag, found in page.elements
        if found.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'; img-src data:")
    assert "script-src" not in policy


def test_identifiers_are_unique_and_every_link_has_its_target(page):
    identifiers = page.having("id")
    assert len(identifiers) == len(set(identifiers))
    targets = [link.removeprefix("#") for link in page.having("href") if link.startswith("#")]
    targets += [link.removeprefix("#") for link in page.having("xlink:href")]
    targets += [name for value in page.having("aria-labelledby") for name in value.split()]
    assert set(targets) <= set(identifiers)


def test_equal_stories_give_equal_pages(story, markup):
    assert render(story) == markup


def test_charts_have_the_pages_colours_a_label_and_their_numbers(page, markup):
    pictures = re.findall(r"<svg .*?</svg>", markup, re.DOTALL)
    assert len(pictures) == 7
    for picture in pictures:
        assert "var(--" in picture
        assert not re.findall(r"#[0-9a-fA-F]{6}\b", picture), "a colour of its own"
        assert "<text" in picture
        assert "DejaVu" not in picture
    labels = [found["aria-label"] for tag, found in page.elements if found.get("role") == "img"]
    assert len(labels) == len(pictures)
    assert all(labels)
    assert markup.count('class="numbers"><summary>Numbers') == len(pictures)


def test_what_a_researcher_asks_first_is_answered_first(story, page):
    newest = story.iterations[-1]
    rate = next(one.win_rate for one in newest.comparisons if one.opponent == "previous")
    assert f"M3 wins {100 * rate.value:.1f} % of the comparisons with M2" in page.text
    accuracy = newest.judge.metrics["pairwiseAccuracy"]
    assert f"As judge M3 orders {100 * accuracy.value:.1f} % of the held-out pairs" in page.text
    assert f"{story.timeline.gpu_hours:,.1f} GPU-hours" in page.text
    assert page.text.index("Did it get better?") < page.text.index("Progress", page.text.index("Manifest"))
    assert "The run ended early." in page.text
    assert "The judge rewards length." in page.text


def test_all_numbers_that_alarms_look_at_stand_in_it(story, page):
    newest = story.iterations[-1].metrics
    for name in (
        "scorePiling",
        "scoreLengthCorrelation",
        "tieRate",
        "spearman",
        "positionBias",
        "meanLength",
    ):
        at = page.text.index(name, page.text.index("All numbers that alarms and gates look at"))
        assert f"{newest[name]:.4g}" in page.text[at : at + 80], name


def test_pairs_stand_with_their_answers_and_judgements(story, page):
    for one in story.iterations:
        for pair in one.pairs.sample if one.pairs else ():
            assert pair.chosen.text in page.text
            assert pair.rejected.text in page.text
            assert all(judgement.text in page.text for judgement in pair.chosen.judgements)


def test_every_text_may_be_hostile_and_does_nothing(story, page):
    text = "".join(HOSTILE)
    answer = Answer(text=text, score=3.0, judgements=(Judgement(text=text, score=None, reason=text),))
    pairs = Pairs(
        total=1,
        sample=(
            Pair(
                key=text,
                prompt_key=text,
                prompt=(Turn(role=text, text=text),),
                chosen=answer,
                rejected=answer,
            ),
        ),
        missing=text,
    )
    first, *others = story.iterations
    judge = dataclasses.replace(
        first.judge,
        undefined={"spearman": text},
        subsets=tuple(dataclasses.replace(one, name=text) for one in first.judge.subsets),
    )
    [alarm] = story.alarms
    evidence = tuple(dataclasses.replace(one, key=text, excerpt=text) for one in alarm.evidence)
    hostile = dataclasses.replace(
        story,
        namespace=text, name=text, ending=text, problems=(text,), manifest=text, fixed_judge=text,
        data={text: text},
        models=(ModelStatus(name=text, iteration=1, uri=text, digest=text, gate="Held", gate_message=text),),
        alarms=(dataclasses.replace(alarm, name=text, message=text, evidence=evidence),),
        iterations=(dataclasses.replace(first, pairs=pairs, judge=judge), *others),
    )  # fmt: skip
    found = Page(render(hostile))
    assert found.open == []
    tags = {tag for tag, _ in page.elements} | {"ul", "li", "p", "span"}
    assert {tag for tag, _ in found.elements} <= tags
    assert not [name for _, attributes in found.elements for name in attributes if name.startswith("on")]
    assert "<script>alert(1)</script>" in found.text
    assert "7 * 7" in found.text
    body = found.text[found.text.index("Skip to the results") :]
    assert not re.findall(
        r"[\u202a-\u202e\u2066-\u2069\u200e\u200f\u061c\x00-\x08\x0e-\x1f\u2028\u2029]", body
    )


def only_pairs(story, pairs):
    """A story of nothing but pairs, by iteration."""
    one = IterationStory(number=1, model="M1")
    iterations = (
        dataclasses.replace(one, number=number, model=f"M{number}", pairs=found)
        for number, found in pairs.items()
    )
    return dataclasses.replace(story, iterations=tuple(iterations), timeline=Timeline())


def test_megabyte_rows_and_twenty_iterations_stay_under_three_megabytes(story):
    huge = Answer(
        text="\u202e<\0" * 350_000,
        score=1.0,
        judgements=tuple(Judgement(text="&<\x01\x02" * 250_000, score=2.0) for _ in range(3)),
    )
    pairs = Pairs(
        total=10_000,
        sample=tuple(
            Pair(key=f"{number}", prompt_key="p", prompt=(Turn(role="user", text="한" * 1_000_000),), chosen=huge,
                 rejected=huge)
            for number in range(2)
        ),
    )  # fmt: skip
    page = render(only_pairs(story, dict.fromkeys(range(1, 21), pairs))).encode()
    assert len(page) < 3_000_000
    assert b"more characters are not shown" in page


def test_every_iteration_has_its_share_of_the_room(story):
    wordy = Answer(text="word " * 700, score=1.0, judgements=())
    pairs = Pairs(
        total=500,
        sample=tuple(
            Pair(key=f"{number}", prompt_key="p", prompt=(), chosen=wordy, rejected=wordy)
            for number in range(500)
        ),
    )
    markup = render(only_pairs(story, {8: pairs, 9: pairs}))
    shown = [int(found) for found in re.findall(r'<span class="badge">(\d+) of 500</span>', markup)]
    assert len(shown) == 2
    assert abs(shown[0] - shown[1]) <= 1
    assert 0.9 * PAIRS_BYTES < len(markup) < 3_000_000


def test_an_empty_run_has_a_page_that_says_so(story):
    empty = dataclasses.replace(
        story, iterations=(), models=(), alarms=(), timeline=dataclasses.replace(story.timeline, spans=(), idle=()),
        ending=None, problems=("Prepare (0123456789abcdef): is missing",),
    )  # fmt: skip
    text = Page(render(empty)).text
    assert "1 part of this report could not be made" in text
    assert "Not measured" in text
    assert "No iteration has made pairs yet." in text
