"""The batteries other than `redact`, each against what its docstring promises."""

from __future__ import annotations

import pytest
from opentelemetry.sdk.trace.sampling import Decision, TraceIdRatioBased

from zupa import reducers
from zupa.errors import ConfigurationError, InvalidEventError
from zupa.event import Event
from zupa.ports import Reducer
from zupa.reducers import dedupe, enrich, filter_events, rate_limit, rename, route, sample, truncate


class FakeClock:
    def __init__(self):
        self.now_ns = 5_000_000_000

    def time_ns(self):
        raise AssertionError("intervals use the monotonic clock")

    def monotonic_ns(self):
        return self.now_ns

    def advance_s(self, seconds):
        self.now_ns += round(seconds * 1e9)


@pytest.fixture
def clock():
    return FakeClock()


def event(name="b", payload=None, channel="a", **fields):
    return Event(channel, name, payload or {}, **fields)


ALL = [
    dedupe(),
    enrich(a=1),
    filter_events(bool),
    rate_limit(1),
    reducers.redact(),
    rename({"a:b": "c:d"}),
    route("c:d"),
    sample(0.5),
    truncate(),
]


@pytest.mark.parametrize("reducer", ALL, ids=lambda reducer: reducer.name)
def test_every_battery_is_a_named_reducer_with_a_repr(reducer):
    assert isinstance(reducer, Reducer)
    assert repr(reducer).startswith(f"{reducer.name}(")
    assert getattr(reducers, reducer.name)
    assert bool(getattr(reducer, "fails_closed", False)) == (reducer.name == "redact")


def test_what_is_exported_exists():
    assert len(set(reducers.__all__)) == len(reducers.__all__)
    for name in reducers.__all__:
        assert hasattr(reducers, name)


NAN, INF = float("nan"), float("inf")
BAD_SETTINGS = [
    *[(sample, (bad,), {}, "ratio") for bad in (-0.1, 1.1, NAN, True, "1", None)],
    (sample, (0.5,), {"by": "span"}, "by"),
    (sample, (0.5,), {"keep": 1}, "keep"),
    *[(rate_limit, (bad,), {}, "rate_per_s") for bad in (0, -1, NAN, INF, True, "1", None)],
    *[(rate_limit, (1,), {"burst": bad}, "burst") for bad in (0.5, 0, NAN, INF, "1")],
    (rate_limit, (1,), {"key": "topic"}, "key"),
    *[(rate_limit, (1,), {"max_keys": bad}, "max_keys") for bad in (0, 1.5, True)],
    *[(dedupe, (), {"window_s": bad}, "window_s") for bad in (0, -1, NAN, INF, "1", None)],
    (dedupe, (), {"key": "topic"}, "key"),
    (dedupe, (), {"max_keys": 0}, "max_keys"),
    *[
        (truncate, (), {name: bad}, name)
        for name in ("max_string", "max_items", "max_depth")
        for bad in (0, -1, 1.5, True, None)
    ],
    (enrich, (), {}, "fields"),
    (enrich, ({},), {}, "fields"),
    (enrich, ("x",), {}, "fields"),
    (enrich, (lambda event: {},), {"a": 1}, "fields"),
    (enrich, (), {"a": 1, "into": "header"}, "into"),
    *[(rename, (bad,), {}, "topics") for bad in ({}, None, "a:b")],
    *[
        (rename, (bad,), {}, "topics")
        for bad in ({"a": "b:c"}, {"a:b": "c"}, {"a:b": "c:*"}, {"a:b": 1}, {1: "a:b"}, {"*:b": "a:b"})
    ],
    *[(route, (bad,), {}, "to") for bad in ("a", "", "a:", "a b:c", None, 1)],
    (route, ("a:b",), {"when": 1}, "when"),
    (filter_events, (None,), {}, "predicate"),
]


@pytest.mark.parametrize(
    ("factory", "args", "kwargs", "names"), BAD_SETTINGS, ids=lambda value: getattr(value, "__name__", None)
)
def test_bad_settings_are_refused_by_name(factory, args, kwargs, names):
    with pytest.raises(ConfigurationError, match=rf"{factory.__name__}\({names}"):
        factory(*args, **kwargs)


# -- filter_events ---------------------------------------------------------------------------------------------------
def test_filter_events_keeps_what_the_predicate_likes():
    reducer = filter_events(lambda event: event.name == "keep")
    kept = event("keep")
    assert reducer(kept) is kept
    assert reducer(event("drop")) is None


# -- sample ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("ratio", [0, 1e-18, 0.1, 0.25, 0.5, 1 / 3, 0.999, 1])
def test_sampling_by_trace_agrees_with_the_sdk(ratio):
    reducer, sampler = sample(ratio), TraceIdRatioBased(ratio)
    bound = sampler.bound
    edges = [1, bound - 1, bound, bound + 1, 2**63, 2**64 - 1, 2**64, 2**64 + bound, 2**128 - 1]
    for trace_id in [*edges, *(number * 0x9E3779B97F4A7C15F39CC0605CEDC835 % 2**128 for number in range(1, 500))]:
        if trace_id <= 0:
            continue
        kept = reducer(event(trace_id=trace_id)) is not None
        assert kept == (sampler.should_sample(None, trace_id, "x").decision is Decision.RECORD_AND_SAMPLE)


def test_sampling_by_event_is_about_the_ratio_and_repeatable():
    events = [event(seq=number, boot_id="0123456789abcdef", pid=1, trace_id=7) for number in range(1, 4001)]
    first, second = sample(0.25, by="event"), sample(0.25, by="event")
    kept = [item.seq for item in events if first(item)]
    assert kept == [item.seq for item in events if second(item)]
    assert 850 < len(kept) < 1150
    assert first.sampled_out == 4000 - len(kept)


@pytest.mark.parametrize("by", ["trace", "event"])
def test_events_without_trace_or_number_are_sampled_one_by_one(by):
    reducer = sample(0.5, by=by)
    kept = sum(reducer(event()) is not None for _ in range(2000))
    assert 850 < kept < 1150


def test_the_extremes_keep_all_and_nothing_and_keep_overrules():
    assert sample(1)(event()) is not None
    assert sample(0)(event()) is None
    reducer = sample(0, keep=lambda event: event.name == "failed")
    assert reducer(event("failed")) is not None
    assert reducer(event("fine")) is None
    assert reducer.sampled_out == 1


# -- rate_limit ------------------------------------------------------------------------------------------------------
def test_a_burst_passes_and_then_the_rate(clock):
    reducer = rate_limit(2, burst=3, clock=clock)
    assert [reducer(event()) is not None for _ in range(5)] == [True, True, True, False, False]
    clock.advance_s(0.5)
    assert [reducer(event()) is not None for _ in range(2)] == [True, False]
    clock.advance_s(1000)
    assert sum(reducer(event()) is not None for _ in range(10)) == 3
    assert reducer.limited == 2 + 1 + 7


def test_slow_trickle_is_never_limited(clock):
    reducer = rate_limit(10, burst=1, clock=clock)
    for _ in range(1000):
        assert reducer(event()) is not None
        clock.advance_s(0.1)


def test_rates_below_one(clock):
    reducer = rate_limit(0.1, clock=clock)
    assert reducer(event()) is not None
    clock.advance_s(9.9)
    assert reducer(event()) is None
    clock.advance_s(0.2)
    assert reducer(event()) is not None


def test_keys_have_their_own_limit_and_are_bounded(clock):
    reducer = rate_limit(1, clock=clock, max_keys=2)
    for name in "xyxy":
        reducer(event(name))
    assert reducer.limited == 2
    assert reducer(event("z")) is not None, "forgets x, which was used least recently"
    assert reducer(event("y")) is None
    assert reducer(event("x")) is not None
    assert len(reducer._buckets) == 2
    by_node = rate_limit(1, key=lambda event: event.payload["node"], clock=clock)
    assert by_node(event("a", {"node": 1})) is not None
    assert by_node(event("b", {"node": 1})) is None


def test_the_system_clock_is_the_default():
    reducer = rate_limit(1e-6)
    assert [reducer(event()) is not None for _ in range(2)] == [True, False]
    assert [item is not None for item in map(dedupe(window_s=3600), [event(), event()])] == [True, False]


# -- dedupe ----------------------------------------------------------------------------------------------------------
def test_repeats_in_the_window_are_dropped_and_then_counted(clock):
    reducer = dedupe(window_s=10, clock=clock)
    first = event(payload={"a": 1, "b": [2]}, metadata={"m": 1})
    assert reducer(first) is first
    clock.advance_s(4)
    assert reducer(event(payload={"b": [2], "a": 1}, seq=9, occurred_at=9)) is None, "order, ids and times do not count"
    assert reducer(first) is None
    clock.advance_s(6)
    after = reducer(first)
    assert after.metadata == {"m": 1, "duplicates": 2}
    assert first.metadata == {"m": 1}
    assert reducer.suppressed == 2
    clock.advance_s(10)
    assert reducer(first) is first, "no repeats, no mark"


@pytest.mark.parametrize(
    "other", [event("c", {"a": 1}), event("b", {"a": 2}), event("b", {"a": "1"}), event("b", {"a": 1}, channel="x")]
)
def test_different_events_are_not_duplicates(clock, other):
    reducer = dedupe(clock=clock)
    assert reducer(event("b", {"a": 1})) is not None
    assert reducer(other) is other


def test_the_key_and_the_bound(clock):
    reducer = dedupe(key=lambda event: event.payload["k"], max_keys=2, clock=clock)
    assert [reducer(event(payload={"k": key})) is not None for key in (1, 2, 1, 3, 1)] == [
        True,
        True,
        False,
        True,
        True,
    ]
    assert len(reducer._seen) == 2


# -- enrich ----------------------------------------------------------------------------------------------------------
def test_fields_are_added_and_nothing_is_overwritten():
    reducer = enrich({"env": "prod", "a": 0}, team="core")
    before = event(payload={"a": 1})
    assert reducer(before).payload == {"a": 1, "env": "prod", "team": "core"}
    assert before.payload == {"a": 1}
    full = event(payload={"a": 1, "env": "x", "team": "y"})
    assert reducer(full) is full


def test_overwriting_and_metadata():
    assert enrich(a=2, overwrite=True)(event(payload={"a": 1})).payload == {"a": 2}
    same = event(payload={"a": 2})
    assert enrich(a=2, overwrite=True)(same) is same
    out = enrich(a=2, into="metadata")(event(payload={"a": 1}))
    assert (out.payload, out.metadata) == ({"a": 1}, {"a": 2})


def test_computed_fields():
    reducer = enrich(lambda event: {"size": len(event.payload), "error": ValueError("x")} if event.payload else {})
    empty = event()
    assert reducer(empty) is empty
    payload = reducer(event(payload={"a": 1})).payload
    assert payload["size"] == 1
    assert payload["error"]["type"] == "ValueError", "what a function returns is normalised"
    with pytest.raises(TypeError, match="must return a mapping"):
        enrich(lambda event: None)(event())


def test_the_repr_has_names_only():
    assert "canary" not in repr(enrich(password="canary"))


# -- rename and route ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("topic", "expected"),
    [
        ("telemetry:node_transition", "agent:log"),
        ("telemetry:other", "metrics:other"),
        ("telemetry:deep:x:y", "archive:x:y"),
        ("legacy:one", "gone:all"),
        ("other:one", "other:one"),
        ("telemetry2:one", "telemetry2:one"),
    ],
)
def test_exact_topics_win_over_long_prefixes_over_short_ones(topic, expected):
    reducer = rename(
        {
            "telemetry:*": "metrics:*",
            "telemetry:deep:*": "archive:*",
            "telemetry:node_transition": "agent:log",
            "legacy:*": "gone:all",
        }
    )
    channel, name = topic.split(":", 1)
    before = event(name, {"x": 1}, channel, seq=3)
    for _ in range(2):  # the second time from the cache
        after = reducer(before)
        assert after == before.replace(channel=expected.split(":", 1)[0], name=expected.split(":", 1)[1])
        assert (after is before) == (topic == expected)


def test_renaming_happens_once_and_the_cache_is_bounded():
    swap = rename({"a:x": "a:y", "a:y": "a:x", "b:*": "c:*"})
    assert swap(event("x")).name == "y"
    for number in range(10_000):
        assert swap(event(f"n{number}", channel="b")).topic == f"c:n{number}"
    assert len(swap._cache) <= 4096


def test_a_new_topic_that_breaks_the_grammar_raises_for_the_bus_to_isolate():
    with pytest.raises(InvalidEventError):
        rename({"a:*": "a-much-longer-channel:*"})(event("n" * 250))
    with pytest.raises(InvalidEventError):
        route(lambda event: "no topic")(event())


def test_route_changes_the_topic_or_adds_a_copy():
    before = event("b", {"x": 1}, seq=1)
    assert route("c:d")(before) == before.replace(channel="c", name="d")
    assert route("audit:*")(before).topic == "audit:b"
    assert route("audit:log:*")(before).topic == "audit:log:b"
    assert route("audit:*", copy=True)(before) == [before, before.replace(channel="audit")]
    assert route("a:b", copy=True)(before) is before
    assert route(lambda event: f"x:{event.name}")(before).topic == "x:b"
    assert route(lambda event: None)(before) is before
    assert route("c:d", when=lambda event: event.payload["x"] == 2)(before) is before
    assert route("c:d", when=lambda event: event.payload["x"] == 1)(before).topic == "c:d"


def test_the_example_of_the_rfc_is_a_plain_function():
    def reducer(event):
        if event.channel == "telemetry" and event.name == "node_transition":
            return event.replace(
                channel="agent", name="log", payload={"message": f"Entering node: {event.payload['node']}"}
            )
        return event

    assert isinstance(reducer, Reducer)
    out = reducer(event("node_transition", {"node": "plan"}, "telemetry"))
    assert (out.topic, out.payload) == ("agent:log", {"message": "Entering node: plan"})


# -- truncate --------------------------------------------------------------------------------------------------------
def test_small_payloads_come_back_as_the_same_object():
    reducer = truncate(max_string=5, max_items=3, max_depth=3)
    small = event(payload={"a": "12345", "b": [1, 2, 3], "c": {"d": [b"12345"]}})
    assert reducer(small) is small
    assert reducer.truncated == 0


def test_strings_lose_their_middle_bytes_their_end():
    out = truncate(max_string=8)(
        event(payload={"a": "0123456789", "b": b"0123456789", "long-key-too": 1}, metadata={"m": 1})
    )
    assert out.payload == {"a": "01234\u202689", "b": b"01234567", "long-\u2026oo": 1}
    assert out.metadata == {"m": 1, "truncated": True}
    assert truncate(max_string=1)(event(payload={"a": "xyz"})).payload == {"a": "\u2026"}


def test_wide_and_deep_values_are_cut_and_the_original_is_not():
    payload = {"list": [1, 2, 3, 4], "dict": {"a": 1, "b": 2, "c": 3}, "deep": {"er": {"est": 1}}}
    before = event(payload=payload)
    reducer = truncate(max_items=3, max_depth=2)
    assert reducer(before).payload == {
        "list": [1, 2, 3],
        "dict": {"a": 1, "b": 2, "c": 3},
        "deep": {"er": "<cut: dict deeper than 2>"},
    }
    assert payload == {"list": [1, 2, 3, 4], "dict": {"a": 1, "b": 2, "c": 3}, "deep": {"er": {"est": 1}}}
    assert len(truncate(max_items=2)(before).payload) == 2
    assert reducer.truncated == 1
