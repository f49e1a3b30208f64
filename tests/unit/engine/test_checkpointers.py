"""What every checkpointer of the package promises, and what only SQLite can break."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading

import pytest

from zupa.engine import (
    Checkpoint,
    Checkpointer,
    CheckpointError,
    CheckpointSource,
    InMemoryCheckpointer,
    LedgerEvent,
    SqliteCheckpointer,
)


@pytest.fixture(params=["memory", "sqlite", "sqlite-memory"])
def store(request, tmp_path):
    if request.param == "memory":
        yield InMemoryCheckpointer()
        return
    with SqliteCheckpointer(tmp_path / "c.db" if request.param == "sqlite" else ":memory:") as sqlite_store:
        yield sqlite_store


def checkpoint(number, thread_id="t", **changes):
    return Checkpoint(checkpoint_id=f"c{number}", thread_id=thread_id, step=number, **changes)


def run(coroutine):
    return asyncio.run(coroutine)


def test_satisfies_the_port(store):
    assert isinstance(store, Checkpointer)


def test_an_unknown_thread_is_empty(store):
    assert run(store.get("t")) is None
    assert run(store.get("t", "c1")) is None
    assert run(store.history("t")) == []
    assert run(store.ledger("t")) == []


def test_everything_comes_back(store):
    values = {
        "text": "ü \U0001f600",
        "none": None,
        "flag": True,
        "int": 2**63 - 1,
        "negative": -(2**63),
        "float": 0.1,
        "bytes": b"\x00\xff",
        "nested": {"list": [1, [2, {"3": 4}]]},
    }
    stored = checkpoint(
        1,
        parent_checkpoint_id="c0",
        source=CheckpointSource.INTERRUPT,
        values=values,
        next_tasks=("b", "a"),
        writes={"x": [1]},
        metadata={"sources": {"b": ["z"], "a": []}},
        created_at_ns=123,
    )
    run(store.put(stored, [LedgerEvent("paid", {"n": 1}, "node", 1)]))
    assert run(store.get("t")) == stored
    assert run(store.get("t", "c1")) == stored
    assert list(run(store.get("t")).metadata["sources"]) == ["b", "a"], "order is meaning here"
    assert run(store.ledger("t")) == [LedgerEvent("paid", {"n": 1}, "node", 1)]


def test_newest_first_and_threads_apart(store):
    for number in (1, 2, 3):
        run(store.put(checkpoint(number), [LedgerEvent(f"e{number}")]))
        run(store.put(checkpoint(number, "other"), [LedgerEvent(f"o{number}")]))
    assert run(store.get("t")).checkpoint_id == "c3"
    assert run(store.get("t", "c2")).step == 2
    assert [c.checkpoint_id for c in run(store.history("t"))] == ["c3", "c2", "c1"]
    assert [e.type for e in run(store.ledger("t"))] == ["e1", "e2", "e3"]
    assert {c.thread_id for c in run(store.history("other"))} == {"other"}


def test_later_changes_do_not_reach_what_is_stored(store):
    values = {"items": [1]}
    run(store.put(checkpoint(1, values=values)))
    values["items"].append(2)
    assert run(store.get("t")).values == {"items": [1]}
    run(store.get("t")).values["items"].append(3)
    assert run(store.get("t")).values == {"items": [1]}


def cyclic():
    items = []
    items.append(items)
    return items


@pytest.mark.parametrize("value", [object(), 2**70, cyclic(), "\ud800"], ids=["object", "huge", "cycle", "surrogate"])
@pytest.mark.parametrize("field", ["values", "writes", "metadata"])
def test_what_cannot_be_stored_is_named_and_stores_nothing(store, field, value):
    named = {"values": "channel 'bad'", "writes": "a write to channel 'bad'", "metadata": "metadata 'bad'"}[field]
    with pytest.raises(CheckpointError, match=rf"{named} of thread 't' cannot be stored"):
        run(store.put(checkpoint(1, **{field: {"good": 1, "bad": value}}), [LedgerEvent("x")]))
    assert run(store.get("t")) is None
    assert run(store.ledger("t")) == []


def test_an_unstorable_ledger_event_stores_nothing(store):
    with pytest.raises(CheckpointError, match="ledger event 'bad' of node 'n'"):
        run(store.put(checkpoint(1), [LedgerEvent("good"), LedgerEvent("bad", {"x": object()}, "n")]))
    assert run(store.get("t")) is None
    assert run(store.ledger("t")) == []


def test_a_second_put_of_an_id_is_refused_whole(store):
    run(store.put(checkpoint(1, values={"x": 1}), [LedgerEvent("first")]))
    with pytest.raises(CheckpointError, match="'c1' of thread 't' exists already"):
        run(store.put(checkpoint(1, values={"x": 2}), [LedgerEvent("second")]))
    assert run(store.get("t")).values == {"x": 1}
    assert [e.type for e in run(store.ledger("t"))] == ["first"]
    run(store.put(checkpoint(2)))
    assert run(store.get("t")).checkpoint_id == "c2", "it still works"


def test_many_threads_at_once(store):
    start, errors = threading.Barrier(8), []

    def work(index):
        async def puts():
            for number in range(10):
                await store.put(checkpoint(number, f"t{index}"), [LedgerEvent(str(number))])

        try:
            start.wait(10)
            run(puts())
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    for index in range(8):
        assert [c.step for c in run(store.history(f"t{index}"))] == list(range(9, -1, -1))
        assert [e.type for e in run(store.ledger(f"t{index}"))] == [str(n) for n in range(10)]


def test_two_connections_share_a_file(tmp_path):
    with SqliteCheckpointer(tmp_path / "c.db") as one, SqliteCheckpointer(tmp_path / "c.db") as two:
        run(one.put(checkpoint(1)))
        run(two.put(checkpoint(2)))
        assert run(one.get("t")).checkpoint_id == "c2"


def test_the_file_is_in_wal_mode(tmp_path):
    with SqliteCheckpointer(tmp_path / "c.db"), contextlib.closing(sqlite3.connect(tmp_path / "c.db")) as other:
        assert other.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_locked_file_is_an_error_that_says_so_and_passes(tmp_path):
    path = tmp_path / "c.db"
    with (
        SqliteCheckpointer(path, busy_timeout_s=0.01) as store,
        contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other,
    ):
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(CheckpointError, match="locked"):
            run(store.put(checkpoint(1)))
        other.execute("ROLLBACK")
        run(store.put(checkpoint(1)))
        assert run(store.get("t")).checkpoint_id == "c1"


def test_use_after_close_is_a_clear_error(tmp_path):
    store = SqliteCheckpointer(tmp_path / "c.db")
    store.close()
    store.close()
    with pytest.raises(CheckpointError, match="is closed"):
        run(store.get("t"))


def test_a_path_that_cannot_be_opened_fails_at_construction(tmp_path):
    with pytest.raises(CheckpointError, match="cannot be kept in"):
        SqliteCheckpointer(tmp_path / "missing" / "c.db")
    (tmp_path / "text.db").write_text("this is no database, and it is long enough to be seen as such" * 20)
    with pytest.raises(CheckpointError, match="cannot be kept in"):
        SqliteCheckpointer(tmp_path / "text.db")


def test_damaged_data_is_a_clear_error(tmp_path):
    path = tmp_path / "c.db"
    with SqliteCheckpointer(path) as store:
        run(store.put(checkpoint(1)))
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("UPDATE checkpoints SET body = x'c1'")
        with pytest.raises(CheckpointError, match="thread 't' cannot be read"):
            run(store.get("t"))
