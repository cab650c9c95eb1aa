"""Segments and repetition: the same however the text comes, and nothing that is not there."""

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasoning.strategies.chains.repetition import Repetition
from reasoning.strategies.chains.segments import REFLECTIONS, Segmenter, last_sentences

WORDS = ["\n\n", "\n", "Wait", "But", "Hmm", "Let me double-check", "waiting", " ", "x.", "Button"]


def segments(text: str, cuts: list[int]) -> list[str]:
    segmenter = Segmenter("\n\n", REFLECTIONS)
    found: list[str] = []
    for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
        found += segmenter.feed(text[start:end])
    return found + segmenter.finish()


@given(st.lists(st.sampled_from(WORDS), max_size=30), st.data())
def test_trimr_1_8_5_segments_do_not_depend_on_how_the_text_comes(
    words: list[str], data: st.DataObject
) -> None:
    text = "".join(words)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    whole = segments(text, [])
    assert "".join(whole) == text
    assert segments(text, cuts) == whole == segments(text, list(range(len(text))))
    for before, after in itertools.pairwise(whole):
        assert before.endswith("\n\n") and after.startswith(REFLECTIONS)


def test_trimr_1_8_5_a_word_inside_a_paragraph_starts_no_thought() -> None:
    assert segments("a. Wait, no.\nWait here.\n\nButter\n\nwait", []) == [
        "a. Wait, no.\nWait here.\n\nButter\n\nwait"
    ]
    assert segments("a\n\nWait, b\n\nBut c", []) == ["a\n\n", "Wait, b\n\n", "But c"]


def test_words_and_breaks_are_settings() -> None:
    segmenter = Segmenter("\n", ("wait",))
    assert segmenter.feed("1+2=3 : 3 4\nwait 1 2 4\n1*2=2") == ["1+2=3 : 3 4\n"]


def test_the_end_of_a_thought() -> None:
    thought = "First. Second is long! Third?\nFourth line\n\n"
    assert last_sentences(thought, 2, 400) == "Third?\nFourth line"
    assert last_sentences(thought, 99, 400) == thought.strip()
    assert last_sentences(thought, 99, 4) == "line"


@pytest.mark.parametrize("period", [1, 3, 17, 32, 50, 64])
def test_trimr_1_8_10_a_planted_loop_is_found_soon(period: int) -> None:
    draw = random.Random(period)
    found = Repetition(32, 4)
    assert not found.feed(draw.randrange(32_000) for _ in range(700))
    loop = [draw.randrange(32_000) for _ in range(period)]
    came = next(i for i in range(1, 2000) if found.feed([loop[(i - 1) % period]]))
    assert came <= 32 + 4 * period


@pytest.mark.parametrize("window", [32, 64])
def test_trimr_1_8_10_random_text_is_no_loop(window: int) -> None:
    draw = random.Random(window)
    assert not Repetition(window, 4).feed(draw.randrange(32_000) for _ in range(32_768))


def test_three_times_or_at_uneven_distances_is_no_loop() -> None:
    draw = random.Random(0)
    block = [draw.randrange(1000) for _ in range(40)]
    three = Repetition(32, 4)
    assert not three.feed(block * 3)
    uneven = Repetition(32, 4)
    for gap in (1, 5, 2, 7, 3):
        assert not uneven.feed([*block, *(draw.randrange(1000) for _ in range(gap))])
