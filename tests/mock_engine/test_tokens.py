"""Tokens without a tokenizer."""

from __future__ import annotations

from itertools import islice

from hypothesis import given
from hypothesis import strategies as st

from autellix_server.mock_engine.tokens import answer_tokens, answer_words, chat_tokens, count, id_tokens, text_tokens
from autellix_server.traces.prompts import PromptBook
from autellix_server.traces.vocabulary import VOCABULARY
from autellix_server.traces.workloads.registry import generate


def test_synthetic_prompts_count_one_token_a_word() -> None:
    """As long as the trace says, to the token."""
    for program in islice(generate("react", 3), 3):
        book = PromptBook(program)
        assert [count(text_tokens(book.text(call.id))) for call in program.calls] == [
            call.prompt_tokens for call in program.calls
        ]


def test_every_word_of_the_vocabulary_is_a_token_of_its_own() -> None:
    """Different words are different tokens."""
    assert len({text_tokens(word) for word in VOCABULARY}) == len(VOCABULARY)
    assert {count(text_tokens(word)) for word in VOCABULARY} == {1}


def test_text_counts_words_and_punctuation() -> None:
    """Long words, numbers and capitals are several tokens; spaces are none; scripts without spaces count too."""
    assert count(text_tokens("The lazy dog; it wasn't impressed.")) == 10
    assert count(text_tokens("internationalisation in 1987")) == 5
    assert count(text_tokens("def add(first: int) -> int:\n    return first_value\n")) == 17
    assert count(text_tokens("你好世界")) == 2


@given(st.text(), st.text())
def test_any_text_has_tokens_and_a_newline_joins_none(first: str, second: str) -> None:
    """The tokens of a text begin with those of what stands before a line's end."""
    assert text_tokens(f"{first}.\nq{second}").startswith(text_tokens(f"{first}.\n"))


def test_the_next_turn_begins_with_this_one_and_its_answer() -> None:
    """A chat that replays the answer shares all of it."""
    words = answer_words(50, b"seed")
    asked = [("system", "be brief"), ("user", "how are you?")]
    answer = "".join(f" {word}" for word in words)
    follow_up = chat_tokens([*asked, ("assistant", answer), ("user", "and now?")])
    assert follow_up.startswith(chat_tokens(asked) + text_tokens(answer))


def test_answers_depend_on_their_seed_alone() -> None:
    """The same again, another for another seed; lengths around their mean."""
    assert answer_words(20, b"a") == answer_words(20, b"a") != answer_words(20, b"b")
    lengths = [answer_tokens(b"%d" % seed, 100.0) for seed in range(2000)]
    assert min(lengths) >= 1
    assert 90 < sum(lengths) / len(lengths) < 110


def test_token_ids_are_tokens() -> None:
    """As many as there are."""
    assert count(id_tokens(range(70_000))) == 70_000
