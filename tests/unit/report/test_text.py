"""Texts of models on a page: nothing of them is markup, nothing of them is invisible, nothing of them is too long."""

import time
import unicodedata
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfrewarding.report.text import plain, short_key, shown


class Reader(HTMLParser):
    """What a browser makes of markup: its tags and its text."""

    def __init__(self, markup: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, list[tuple[str, str | None]]]] = []
        self.text = ""
        self.feed(markup)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, attrs))

    def handle_data(self, data):
        self.text += data


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>",
        "</bdi></details><script src=x></script>",
        '" onmouseover="alert(1)',
        "<img src=x onerror=alert(1)>",
        "{{ 7 * 7 }} {% raw %}",
        "&lt;script&gt; &amp;",
        "<!-- <style>*{display:none}</style>",
    ],
)
def test_markup_in_a_text_is_text(text):
    read = Reader(shown(text, 1000))
    assert read.tags == []
    assert read.text == text


def test_characters_that_turn_the_reading_order_are_shown_and_do_nothing():
    markup = shown("abc\u202egnp.exe\u202c\u2066x\u2069\u200f", 1000)
    assert Reader(markup).text == "abcU+202Egnp.exeU+202CU+2066xU+2069U+200F"
    assert not any(unicodedata.category(char) == "Cf" for char in markup)
    assert 'title="right-to-left override"' in markup


@pytest.mark.parametrize(
    "char", ["\0", "\x1b", "\x7f", "\x85", "\ufeff", "\u2028", "\U000e0041", "\u00ad", "\u200b", "\r"]
)
def test_what_cannot_be_seen_stands_as_its_code_point(char):
    assert Reader(shown(f"a{char}b", 100)).text == f"aU+{ord(char):04X}b"


@pytest.mark.parametrize(
    "text",
    [
        "한국어 문장입니다.",
        "שלום עולם",
        "مرحبا",
        "naïve café — “yes”",
        "👩‍💻 done",
        "می‌خواهم",
        "line\n\tnext",
        "E=mc²",
    ],
)
def test_what_people_write_stays_as_it_is(text):
    assert shown(text, 100) == text


def test_a_run_of_one_invisible_character_is_named_once():
    assert Reader(shown("\0" * 5000, 10_000)).text == "U+0000 ×5,000"
    assert len(shown("\u202e" * 100_000, 200_000)) < 200


def test_a_long_text_is_cut_and_says_how_much():
    markup = shown("x" * 1_000_000, 4000)
    assert len(markup) < 4200
    assert "996,000 more characters are not shown" in markup
    assert "more characters" not in shown("x" * 4200, 4000), "a tenth more is not worth a cut"


def test_a_megabyte_of_hostile_text_takes_no_time():
    text = "\u202e<b>\0" * 250_000
    started = time.monotonic()
    shown(text, 200_000)
    plain(text, 90)
    assert time.monotonic() - started < 1


def test_a_text_of_invisible_characters_is_cut_where_naming_them_would_fill_the_page():
    markup = shown("\x01\x02" * 5000, 20_000)
    assert len(markup) < 20_000
    assert Reader(markup).text.endswith("… 9,800 more characters are not shown")


@given(st.text(max_size=300))
def test_any_text_comes_out_without_tags_of_its_own_and_without_invisible_characters(text):
    markup = shown(text, 1000)
    read = Reader(markup)
    assert {tag for tag, _ in read.tags} <= {"span"}
    assert all(dict(attributes)["class"] == "unseen" for _, attributes in read.tags)
    assert not any(
        unicodedata.category(char) in {"Cc", "Cf", "Cs", "Cn", "Co"} and char not in "\n\t\u200c\u200d"
        for char in markup
    )


@given(st.text(max_size=300))
def test_a_line_is_one_line_and_short(text):
    line = plain(text, 40)
    assert len(line) <= 41
    assert not any(unicodedata.category(char) in {"Cc", "Cf"} and char not in "\u200c\u200d" for char in line)


def test_keys_are_named_by_their_beginning_and_others_as_they_are():
    assert short_key("ab" * 32) == "ab" * 8
    assert short_key("previous/" + "ab" * 32) == "previous/" + "ab" * 8
    assert short_key("previous/p1") == "previous/p1"
    assert len(short_key("x" * 500)) < 60
