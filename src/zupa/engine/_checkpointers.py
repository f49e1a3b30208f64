"""Where checkpoints live: `InMemoryCheckpointer` and `SqliteCheckpointer`.

Both store msgpack, so values must be plain data: None, bool, int of 64 bits, float, str, bytes, and lists and dicts
of those. What else msgspec can encode (tuples, sets, dataclasses, structs, enums, UUIDs, ...) comes back as plain
data: a resumed run sees a list where a tuple was.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from types import TracebackType
from typing import Any, Final, TypeVar

import msgspec

from zupa.errors import CheckpointError
from zupa.ports import Checkpoint, LedgerEvent

_T = TypeVar("_T")
_encoder: Final = msgspec.msgpack.Encoder()
_checkpoint_decoder: Final = msgspec.msgpack.Decoder(Checkpoint)
_ledger_decoder: Final = msgspec.msgpack.Decoder(LedgerEvent)
# What msgspec raises for objects, huge integers, cycles and lone surrogates.
_ENCODE_ERRORS: Final = (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError)


class InMemoryCheckpointer:
    """Keeps encoded copies in this process: what callers change later does not reach what is stored.

    Grows without bound: for tests and short sessions.

    Concurrency: any thread and event loop; one lock, held for list operations only.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._checkpoints: dict[str, dict[str, bytes]] = {}
        self._ledger: dict[str, list[bytes]] = {}

    async def get(self, thread_id: str, checkpoint_id: str | None = None) -> Checkpoint | None:
        with self._lock:
            stored = self._checkpoints.get(thread_id, {})
            key = next(reversed(stored), None) if checkpoint_id is None else checkpoint_id
            body = None if key is None else stored.get(key)
        return None if body is None else _decode(_checkpoint_decoder, thread_id, body)

    async def put(self, checkpoint: Checkpoint, ledger_events: Sequence[LedgerEvent] = ()) -> None:
        body, events = _encode(checkpoint, ledger_events)
        with self._lock:
            stored = self._checkpoints.setdefault(checkpoint.thread_id, {})
            if checkpoint.checkpoint_id in stored:
                raise _duplicate(checkpoint)
            stored[checkpoint.checkpoint_id] = body
            self._ledger.setdefault(checkpoint.thread_id, []).extend(events)

    async def history(self, thread_id: str) -> list[Checkpoint]:
        with self._lock:
            bodies = list(self._checkpoints.get(thread_id, {}).values())
        return [_decode(_checkpoint_decoder, thread_id, body) for body in reversed(bodies)]

    async def ledger(self, thread_id: str) -> list[LedgerEvent]:
        with self._lock:
            bodies = list(self._ledger.get(thread_id, ()))
        return [_decode(_ledger_decoder, thread_id, body) for body in bodies]


class SqliteCheckpointer:
    """Keeps checkpoints in an SQLite file that several processes may share, one transaction for each `put`.

    The file is in WAL mode with ``synchronous=NORMAL``: a checkpoint survives a crash of the process; the newest ones
    may be lost, whole, when the machine loses power.

    Args:
        path: The file, created where missing; ``":memory:"`` for a database that dies with this object.
        busy_timeout_s: How long to wait for another process's transaction, in seconds.

    Raises:
        CheckpointError: at construction, when the file cannot be opened; from each method, when SQLite fails.

    Concurrency: any thread and event loop; one connection under a lock, used in a worker thread. Not across a fork:
    open another one in the child. Call `close`, or use it as a context manager.
    """

    def __init__(self, path: str | os.PathLike[str], *, busy_timeout_s: float = 5.0) -> None:
        self._path = os.fspath(path)
        self._lock = threading.Lock()
        self._closed = False
        try:
            # isolation_level=None: transactions are ours to begin, and `put` needs exactly one.
            self._connection = sqlite3.connect(
                self._path, timeout=busy_timeout_s, isolation_level=None, check_same_thread=False
            )
        except sqlite3.Error as error:
            raise CheckpointError(f"checkpoints cannot be kept in {self._path!r}: {error}") from error
        try:
            self._connection.executescript(_SCHEMA)
        except sqlite3.Error as error:
            self._connection.close()
            raise CheckpointError(f"checkpoints cannot be kept in {self._path!r}: {error}") from error

    async def get(self, thread_id: str, checkpoint_id: str | None = None) -> Checkpoint | None:
        if checkpoint_id is None:
            rows = await self._rows(f"{_SELECT_CHECKPOINTS} ORDER BY position DESC LIMIT 1", thread_id)
        else:
            rows = await self._rows(f"{_SELECT_CHECKPOINTS} AND checkpoint_id = ?", thread_id, checkpoint_id)
        return _decode(_checkpoint_decoder, thread_id, rows[0]) if rows else None

    async def put(self, checkpoint: Checkpoint, ledger_events: Sequence[LedgerEvent] = ()) -> None:
        # Encoded here, not in the worker thread, so that nobody can change a value half-way.
        body, events = _encode(checkpoint, ledger_events)
        thread_id = checkpoint.thread_id

        def write(connection: sqlite3.Connection) -> None:
            connection.execute("BEGIN IMMEDIATE")
            try:
                connection.execute(_INSERT_CHECKPOINT, (thread_id, checkpoint.checkpoint_id, body))
                connection.executemany(_INSERT_LEDGER, [(thread_id, event) for event in events])
                connection.execute("COMMIT")
            except BaseException:
                connection.execute("ROLLBACK")
                raise

        try:
            await self._in_thread(write)
        except sqlite3.IntegrityError as error:
            raise _duplicate(checkpoint) from error

    async def history(self, thread_id: str) -> list[Checkpoint]:
        rows = await self._rows(f"{_SELECT_CHECKPOINTS} ORDER BY position DESC", thread_id)
        return [_decode(_checkpoint_decoder, thread_id, body) for body in rows]

    async def ledger(self, thread_id: str) -> list[LedgerEvent]:
        rows = await self._rows("SELECT body FROM ledger WHERE thread_id = ? ORDER BY position", thread_id)
        return [_decode(_ledger_decoder, thread_id, body) for body in rows]

    def close(self) -> None:
        """Wait for a write that is under way and close the file. Safe to call twice."""
        with self._lock:
            self._closed = True
            self._connection.close()

    def __enter__(self) -> SqliteCheckpointer:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    async def _rows(self, query: str, *arguments: str) -> list[bytes]:
        def read(connection: sqlite3.Connection) -> list[bytes]:
            with closing(connection.execute(query, arguments)) as cursor:
                return [row[0] for row in cursor.fetchall()]

        return await self._in_thread(read)

    async def _in_thread(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        def locked() -> _T:
            with self._lock:
                if self._closed:
                    raise CheckpointError(f"the checkpointer of {self._path!r} is closed; open another one")
                return work(self._connection)

        try:
            return await asyncio.to_thread(locked)
        except sqlite3.IntegrityError:
            raise
        except sqlite3.Error as error:
            raise CheckpointError(f"SQLite failed on {self._path!r}: {error}") from error


_SCHEMA: Final = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = NORMAL;
CREATE TABLE IF NOT EXISTS checkpoints (
    position INTEGER PRIMARY KEY AUTOINCREMENT,
    thread_id TEXT NOT NULL,
    checkpoint_id TEXT NOT NULL,
    body BLOB NOT NULL,
    UNIQUE (thread_id, checkpoint_id)
);
CREATE INDEX IF NOT EXISTS checkpoints_by_thread ON checkpoints (thread_id, position);
CREATE TABLE IF NOT EXISTS ledger (
    position INTEGER PRIMARY KEY AUTOINCREMENT,
    thread_id TEXT NOT NULL,
    body BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS ledger_by_thread ON ledger (thread_id, position);
"""
_SELECT_CHECKPOINTS: Final = "SELECT body FROM checkpoints WHERE thread_id = ?"
_INSERT_CHECKPOINT: Final = "INSERT INTO checkpoints (thread_id, checkpoint_id, body) VALUES (?, ?, ?)"
_INSERT_LEDGER: Final = "INSERT INTO ledger (thread_id, body) VALUES (?, ?)"


def _encode(checkpoint: Checkpoint, ledger_events: Sequence[LedgerEvent]) -> tuple[bytes, list[bytes]]:
    try:
        return _encoder.encode(checkpoint), [_encoder.encode(event) for event in ledger_events]
    except _ENCODE_ERRORS as error:
        culprit, reason = _culprit(checkpoint, ledger_events) or ("the checkpoint", error)
        raise CheckpointError(
            f"{culprit} of thread {checkpoint.thread_id!r} cannot be stored: {reason}; checkpoints hold plain data "
            "(None, bool, 64-bit int, float, str, bytes, lists and dicts of those): convert the value in the node "
            "that writes it, or pass the object as `context`, which is never stored"
        ) from error


def _culprit(checkpoint: Checkpoint, ledger_events: Sequence[LedgerEvent]) -> tuple[str, Exception] | None:
    """Name what cannot be encoded, one value at a time: only done once encoding has failed."""
    parts: list[tuple[str, Any]] = [(f"channel {key!r}", value) for key, value in checkpoint.values.items()]
    parts += [(f"a write to channel {key!r}", value) for key, value in checkpoint.writes.items()]
    parts += [(f"metadata {key!r}", value) for key, value in checkpoint.metadata.items()]
    parts += [(f"ledger event {event.type!r} of node {event.node!r}", event) for event in ledger_events]
    for name, value in parts:
        try:
            _encoder.encode(value)
        except _ENCODE_ERRORS as error:
            return name, error
    return None


def _decode(decoder: msgspec.msgpack.Decoder[_T], thread_id: str, body: bytes) -> _T:
    try:
        return decoder.decode(body)
    except msgspec.MsgspecError as error:
        raise CheckpointError(
            f"what is stored for thread {thread_id!r} cannot be read: {error}; "
            "it is damaged or comes from an incompatible version"
        ) from error


def _duplicate(checkpoint: Checkpoint) -> CheckpointError:
    return CheckpointError(
        f"checkpoint {checkpoint.checkpoint_id!r} of thread {checkpoint.thread_id!r} exists already and is not "
        "overwritten; give each checkpoint an id of its own"
    )
