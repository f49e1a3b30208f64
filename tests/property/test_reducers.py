"""Laws that hold for every payload: reducers do not mutate, are idempotent, and let no planted secret through."""

from __future__ import annotations

import copy

import msgspec
from hypothesis import example, given, settings
from hypothesis import strategies as st

from zupa.event import Event
from zupa.reducers import dedupe, enrich, rate_limit, redact, rename, route, sample, truncate

scalars = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text() | st.binary()
)
keys = st.text() | st.sampled_from(["password", "token", "token_count", "Api-Key", "node", "x"])
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4), max_leaves=20
)
payloads = st.dictionaries(keys, values, max_size=5)

SECRETS = st.one_of(
    st.from_regex(r"sk-[A-Za-z0-9_\-]{20,40}", fullmatch=True),
    st.from_regex(r"(AKIA|ASIA)[A-Z0-9]{16}", fullmatch=True),
    st.from_regex(r"gh[pousr]_[A-Za-z0-9]{36}", fullmatch=True),
    st.from_regex(r"xox[abprs]-[0-9]{10,13}-[A-Za-z0-9]{24}", fullmatch=True),
    st.from_regex(r"AIza[A-Za-z0-9_\-]{35}", fullmatch=True),
    st.from_regex(r"eyJ[A-Za-z0-9_\-]{10,20}\.eyJ[A-Za-z0-9_\-]{10,20}\.[A-Za-z0-9_\-]{10,20}", fullmatch=True),
)
# What may stand next to a secret: anything that could not be part of it.
borders = st.text(
    st.characters(codec="utf-8", exclude_categories=("L", "N"), exclude_characters="_-.~+/=\\"), max_size=6
)


def encoded(value):
    return msgspec.msgpack.encode(value)


def strings_in(value):
    if isinstance(value, str):
        yield value
    elif isinstance(value, bytes):
        yield value.decode("latin-1")
    elif isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from strings_in(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from strings_in(item)


def plant(draw_path, payload, secret):
    """Put *secret* somewhere below *payload*, as the path says."""
    node = secret
    for step in draw_path:
        node = (
            [1, node, "x"]
            if step == "list"
            else {"k": node, "n": 1}
            if step == "dict"
            else {node: 1}
            if isinstance(node, str)
            else [node]
        )
    return {**payload, "planted": node}


@settings(max_examples=300, deadline=None)
@given(
    payloads, SECRETS, borders, borders, st.lists(st.sampled_from(["list", "dict", "key"]), max_size=4), st.booleans()
)
def test_a_planted_secret_never_comes_out(payload, secret, before, after, path, as_bytes):
    text = before + secret + after
    if as_bytes and text.isascii() and "key" not in path:
        text = text.encode()
    event = Event("a", "b", plant(path, payload, text), {"m": text})
    original = copy.deepcopy(event)
    out = redact()(event)
    assert event == original
    assert not any(secret in found for found in strings_in(out.payload))
    assert not any(secret in found for found in strings_in(out.metadata))


@settings(max_examples=300, deadline=None)
@given(payloads)
@example({"x": "token=token=abc"})
@example({"x": "cookie: cookie: a"})
def test_redaction_is_idempotent_and_does_not_mutate(payload):
    reducer, event = redact(), Event("a", "b", payload)
    before = encoded(payload)
    once = reducer(event)
    assert encoded(payload) == before
    count = reducer.redacted
    assert encoded(reducer(once)) == encoded(once)
    assert reducer.redacted == count
    assert (once is event) == (encoded(once) == encoded(event))


def depth_of(value):
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if children is None else 1 + max(map(depth_of, children), default=0)


def widths(value):
    if isinstance(value, dict | list):
        yield len(value)
        for item in value.values() if isinstance(value, dict) else value:
            yield from widths(item)


@settings(max_examples=300, deadline=None)
@given(payloads, st.integers(1, 30), st.integers(1, 5), st.integers(1, 4))
def test_truncation_bounds_everything_and_is_idempotent(payload, max_string, max_items, max_depth):
    reducer = truncate(max_string=max_string, max_items=max_items, max_depth=max_depth)
    event = Event("a", "b", payload)
    before = encoded(payload)
    out = reducer(event)
    assert encoded(payload) == before
    assert depth_of(out.payload) <= max_depth
    assert max(widths(out.payload)) <= max_items
    assert max(map(len, strings_in(out.payload)), default=0) <= max_string
    assert reducer(out) is out
    assert (out is event) == (encoded(out.payload) == before)


@settings(max_examples=100, deadline=None)
@given(st.lists(payloads, max_size=10))
def test_no_battery_mutates_what_it_is_given(many):
    batteries = [
        dedupe(),
        enrich(x=1, overwrite=True),
        rate_limit(1),
        rename({"a:*": "c:*"}),
        route("d:*", copy=True),
        sample(0.5),
        truncate(max_items=1),
    ]
    for payload in many:
        event = Event("a", "b", payload, {"m": [1]}, seq=1, trace_id=5)
        before = encoded(event)
        for reducer in batteries:
            reducer(event)
        assert encoded(event) == before


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(0, 3), max_size=60), st.floats(0.1, 20), st.integers(1, 10))
def test_a_rate_limit_is_never_exceeded(pauses, rate, burst):
    class Clock:
        now = 0

        def monotonic_ns(self):
            return self.now

    clock = Clock()
    reducer = rate_limit(rate, burst=burst, clock=clock)
    passed = []
    for pause in pauses:
        clock.now += round(pause * 1e9)
        if reducer(Event("a", "b")) is not None:
            passed.append(clock.now)
    for first in range(len(passed)):
        for last in range(first, len(passed)):
            seconds = (passed[last] - passed[first]) / 1e9
            assert last - first + 1 <= burst + seconds * rate + 1e-6
    assert len(passed) + reducer.limited == len(pauses)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 30), st.integers(0, 2)), max_size=60))
def test_dedupe_accounts_for_every_event(steps):
    class Clock:
        now = 0

        def monotonic_ns(self):
            return self.now

    clock = Clock()
    reducer = dedupe(window_s=20, clock=clock)
    out = []
    for pause, number in steps:
        clock.now += round(pause * 1e9)
        result = reducer(Event("a", "b", {"n": number}))
        if result is not None:
            out.append(result)
    reported = sum(event.metadata.get("duplicates", 0) for event in out)
    unreported = sum(entry[1] for entry in reducer._seen.values())
    assert len(out) + reducer.suppressed == len(steps)
    assert reported + unreported == reducer.suppressed
