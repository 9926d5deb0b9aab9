"""Question files, search tools and scoring."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hotpotqa import Library, Paragraph, Question, f1, load_questions, mentions, normalise, score
from hypothesis import given
from hypothesis import strategies as st
from tools import MAX_OBSERVATION_CHARS

PAGES = (
    Paragraph("Mount Fuji", "Mount Fuji is a mountain of Japan. It is 3776 m high. It is a volcano. Fuji is holy."),
    Paragraph("Japan", "Japan is an island country in Asia. Its capital is Tokyo."),
    Paragraph("Fuji (apple)", "The Fuji is an apple. It was bred in Japan."),
)


def write(path: Path, *records: object) -> Path:
    """A file with one JSON value a line."""
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def test_questions_are_read_up_to_the_limit(tmp_path: Path) -> None:
    """Extra fields are ignored, blank lines skipped, and lines after the limit not even read."""
    record = {"id": 7, "question": "Where?", "answer": "Köln", "paragraphs": [{"title": "A", "text": "B"}]}
    path = write(tmp_path / "questions.jsonl", record)
    path.write_text("\n" + path.read_text() + "not JSON\n")
    assert load_questions(path, limit=1) == [Question("Where?", "Köln", (Paragraph("A", "B"),))]


@pytest.mark.parametrize("record", [[], 3, {"question": "a"}, {"question": "a", "answer": "b", "paragraphs": [1]}])
def test_a_bad_line_is_named(tmp_path: Path, record: object) -> None:
    """The message names file and line."""
    good = {"question": "a", "answer": "b", "paragraphs": []}
    with pytest.raises(ValueError, match="line 2 is not a question"):
        load_questions(write(tmp_path / "questions.jsonl", good, record))


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    """No question at all is an error, not a run of nothing."""
    with pytest.raises(ValueError, match="holds no question"):
        load_questions(write(tmp_path / "questions.jsonl"))


def test_search_prefers_the_title() -> None:
    """The exact title wins, then words in the title, then words in the text."""
    library = Library(PAGES)
    assert library.search("the mount fuji").startswith("Mount Fuji: ")
    assert library.search("apple from Japan").startswith("Fuji (apple): ")
    assert library.search("Tokyo").startswith("Japan: ")
    assert library.search("Peru") == "Nothing found. Pages: Mount Fuji; Japan; Fuji (apple)"
    assert library.search("") == "Nothing found. Pages: Mount Fuji; Japan; Fuji (apple)"


def test_lookup_goes_from_sentence_to_sentence() -> None:
    """The same word again shows the next sentence, then starts over; a new search forgets the place."""
    library = Library(PAGES)
    assert library.lookup("it").startswith("Search for a page first")
    library.search("Mount Fuji")
    assert library.lookup("it is") == "(1 of 2) It is 3776 m high."
    assert library.lookup("It is") == "(2 of 2) It is a volcano."
    assert library.lookup("it is") == "(1 of 2) It is 3776 m high."
    library.search("Mount Fuji")
    assert library.lookup("it is") == "(1 of 2) It is 3776 m high."
    assert library.lookup("Tokyo") == "'tokyo' is not on the page Mount Fuji."


@given(st.text(max_size=300))
def test_library_takes_any_text(text: str) -> None:
    """No text makes a tool raise, and observations are bounded."""
    library = Library(PAGES)
    for tool in (library.lookup, library.search, library.lookup):
        assert 0 < len(tool(text)) <= MAX_OBSERVATION_CHARS


def test_normalising_follows_hotpotqa() -> None:
    """Case, punctuation, articles and extra space do not count."""
    assert normalise(' The  Jonny" Craig, (an artist)!') == "jonny craig artist"
    assert score("the Eiffel Tower.", "Eiffel tower") == (True, 1.0)
    assert not score("Eiffel", "Eiffel tower")[0]


@pytest.mark.parametrize(
    ("answer", "gold", "expected"),
    [
        ("Bath, Maine", "Bath, Maine", 1.0),
        ("Bath", "Bath, Maine", 2 / 3),
        ("yes it is", "yes", 0.0),
        ("no", "yes", 0.0),
        ("", "Bath", 0.0),
        ("the the", "the", 0.0),
    ],
)
def test_f1(answer: str, gold: str, expected: float) -> None:
    """Words shared, except that yes and no must be the whole answer."""
    assert f1(answer, gold) == pytest.approx(expected)


@given(st.text(), st.text())
def test_f1_is_bounded_and_symmetric(one: str, other: str) -> None:
    """F1 lies between 0 and 1 and does not care which side is which."""
    assert 0 <= f1(one, other) <= 1
    assert f1(one, other) == pytest.approx(f1(other, one))


@pytest.mark.parametrize(
    ("answer", "gold", "right"),
    [
        ("-1", "-1", True),
        ("1", "-1", False),
        ("1,048,576.", "1048576", True),
        ("395.0", "395", True),
        ("3.95", "395", False),
    ],
)
def test_numbers_are_compared_by_value(answer: str, gold: str, right: bool) -> None:
    """Signs and points count in numbers, although normalising drops them."""
    assert score(answer, gold) == (right, float(right))


@pytest.mark.parametrize(
    ("answer", "gold", "found"),
    [
        ("The result is 395.", "395", True),
        ("It is 3,950.", "395", False),
        ("That makes 1,048,576, I think", "1048576", True),
        ("3.95 or 395.1", "395", False),
        ("the default is -1", "-1", True),
        ("the default is -1", "1", False),
        ("At 9:40, as you said", "9:40", True),
        ("At 9:405", "9:40", False),
        ("You are ADA!", "Ada", True),
        ("You are Adam", "Ada", False),
        ("", "Ada", False),
    ],
)
def test_an_answer_is_found_in_a_sentence(answer: str, gold: str, found: bool) -> None:
    """As words or as a number of its own."""
    assert mentions(answer, gold) == found
