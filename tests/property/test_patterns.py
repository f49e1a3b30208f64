"""Patterns against an independent matcher, and what is refused."""

from __future__ import annotations

import string

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from zupa import PatternError
from zupa.bus import Pattern

segments = st.text(string.ascii_letters[:3] + "_-./0", min_size=1, max_size=3)
topic_texts = st.lists(segments, min_size=2, max_size=4).map(":".join)
pattern_texts = st.lists(st.sampled_from(["*", ":", "a", "b", "c", "ab", ".", "-"]), min_size=1, max_size=7).map(
    "".join
)


def oracle(pattern: str, topic: str) -> bool:
    """``*`` is any run of characters: decided by dynamic programming over one row per pattern character."""
    row = [True] + [False] * len(topic)
    for character in pattern:
        if character == "*":
            for index in range(1, len(row)):
                row[index] = row[index] or row[index - 1]
        else:
            row = [False] + [row[index] and topic[index] == character for index in range(len(topic))]
    return row[-1]


def check_pattern(pattern: str, topic: str) -> None:
    """The property: `Pattern` agrees with the oracle, the first time and from its cache."""
    compiled = Pattern(pattern)
    expected = oracle(pattern, topic)
    assert compiled.matches(topic) is expected, (pattern, topic)
    assert compiled.matches(topic) is expected, (pattern, topic, "cached")
    if compiled.matches_everything:
        assert expected


def _valid(pattern: str) -> bool:
    return "*" in pattern or ":" in pattern


@settings(max_examples=1500, deadline=None)
@given(pattern_texts.filter(_valid), topic_texts)
@example("agent:*", "agent:log:info")
@example("*:info", "agent:log:info")
@example("a.b:*", "axb:c")
@example("a:*b*c", "a:xbxbc")
@example("**", "a:b")
def test_patterns_agree_with_the_oracle(pattern, topic):
    """Kills: `*` that stops at colons (see test_planted.py)."""
    check_pattern(pattern, topic)


@settings(max_examples=500, deadline=None)
@given(topic_texts, st.data())
def test_a_topic_with_holes_matches_itself(topic, data):
    start = data.draw(st.integers(0, len(topic)))
    end = data.draw(st.integers(start, len(topic)))
    pattern = topic[:start] + "*" + topic[end:]
    assert Pattern(pattern).matches(topic)
    check_pattern(pattern, topic)


@pytest.mark.parametrize(
    ("pattern", "matches", "misses"),
    [
        ("agent:*", ["agent:log:info", "agent:x"], ["agents:x", "xagent:x"]),
        ("*", ["a:b"], []),
        ("engine:node_*", ["engine:node_started", "engine:node_:x"], ["engine:run_started"]),
        ("*:error", ["a:error", "a:b:error"], ["a:errors", "error:a"]),
        ("a:b", ["a:b"], ["a:bc", "xa:b", "a:b:c"]),
        ("a.c:*", ["a.c:x"], ["abc:x"]),
        ("*started*", ["engine:node_started", "x:started:y"], ["engine:completed"]),
    ],
)
def test_the_documented_cases(pattern, matches, misses):
    compiled = Pattern(pattern)
    assert all(compiled.matches(topic) for topic in matches)
    assert not any(compiled.matches(topic) for topic in misses)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "1 to 255 characters"),
        ("a" * 256, "1 to 255 characters"),
        ("engine", "did you mean 'engine:\\*'"),
        ("engine:node started", "character that no topic has"),
        ("engine:[ab]", "character that no topic has"),
        ("engine:node?", "character that no topic has"),
        ("engine:x\n", "character that no topic has"),
        ("\xe9:*", "character that no topic has"),
        (None, "must be a str"),
        (5, "must be a str"),
        (b"a:*", "must be a str"),
    ],
)
def test_patterns_that_can_never_match_are_refused(text, problem):
    with pytest.raises(PatternError, match=problem):
        Pattern(text)


def test_the_cache_of_a_pattern_is_bounded():
    compiled = Pattern("a:x*")
    for index in range(10_000):
        assert compiled.matches(f"a:{index}") is False
    assert len(compiled._cache) <= 4096
