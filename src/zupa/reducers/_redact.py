"""`redact`: take secrets out of events, by the names of keys and by what values look like."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from zupa.errors import ConfigurationError
from zupa.event import Event
from zupa.normalize import normalize, safe_str
from zupa.reducers._detectors import DEFAULT_DETECTORS, Detector
from zupa.reducers._keys import DEFAULT_KEYS, KeyMatcher

_MIN_LENGTH: Final = 5  # of a string that can hold a secret: "pwd=x"
_MAX_CACHED: Final = 8192
_MAX_CACHED_LENGTH: Final = 64
_NO_SECRETS: Final = frozenset({type(None), bool, int, float})


class Redact:
    """What `redact` returns.

    Attributes:
        redacted: Secrets replaced so far.
        fails_closed: Tells the bus to drop an event, rather than to pass it on, should this reducer raise.
    """

    name = "redact"
    fails_closed = True

    def __init__(
        self, *, keys: Iterable[str], detectors: Iterable[Detector], replacement: str, allow: Iterable[str]
    ) -> None:
        if not isinstance(replacement, str) or not replacement:
            raise ConfigurationError(
                f"redact(replacement) is {replacement!r}: give a text that people recognise, such as '[redacted]'"
            )
        if isinstance(detectors, Detector) or not isinstance(detectors, Iterable):
            raise ConfigurationError(
                "redact(detectors) must be a tuple of Detector, such as (*DEFAULT_DETECTORS, EMAIL)"
            )
        self._detectors = tuple(detectors)
        for detector in self._detectors:
            if not isinstance(detector, Detector):
                raise ConfigurationError(
                    f"redact(detectors) contains a {type(detector).__name__}: give Detector objects"
                )
        self._replacement = replacement
        self._names_secret = KeyMatcher(keys, allow)
        self._rules = [(x.hints, x.compiled, self._substitution(x)) for x in self._detectors]
        # Node names, topics and the like come again and again: the short strings lately found clean.
        self._clean: set[str] = set()
        self._harmless_keys: set[str] = set()
        self.redacted: int = 0
        if self._text(replacement) != replacement:
            raise ConfigurationError(
                "redact(replacement) looks like a secret itself, so that it would be redacted again and again: "
                "choose a text without name=value, such as '[redacted]'"
            )

    def __call__(self, event: Event) -> Event:
        payload = self._fields(event.payload)
        metadata = self._fields(event.metadata) if event.metadata else event.metadata
        if payload is event.payload and metadata is event.metadata:
            return event
        return event.replace(payload=payload, metadata=metadata)

    def _value(self, value: Any) -> Any:
        """Return *value* itself where it holds no secret, else a copy without."""
        cls = type(value)
        if cls is str:
            return self._text(value)
        if cls in _NO_SECRETS:
            return value
        if cls is dict:
            return self._fields(value)
        if cls is list or cls is tuple:
            cleaned = [self._value(item) for item in value]
            if all(map(_same, cleaned, value)):
                return value
            return cleaned if cls is list else tuple(cleaned)
        return self._bytes(value) if cls is bytes else self._foreign(value)

    def _bytes(self, value: bytes) -> bytes | str:
        text = value.decode("latin-1")
        return value if self._text(text) is text else self._replacement

    def _foreign(self, value: Any) -> Any:
        """Make plain data of what a reducer before this one has put in: what cannot be read cannot be cleared."""
        return self._value(normalize({"value": value})[0]["value"])

    def _fields(self, fields: Mapping[str, Any]) -> Mapping[str, Any]:
        changed = False
        result: dict[str, Any] = {}
        for key, value in fields.items():
            if key in self._harmless_keys:
                # The likely values in line: this is the hot loop.
                cls = type(value)
                clean = value if cls in _NO_SECRETS or (cls is str and value in self._clean) else self._value(value)
                clean_key = key
            else:
                clean_key, clean = self._field(key, value, result)
            if clean_key is not key or clean is not value:
                changed = True
            result[clean_key] = clean
        return result if changed else fields

    def _field(self, key: Any, value: Any, result: Mapping[str, Any]) -> tuple[str, Any]:
        name = key if type(key) is str else safe_str(key)
        clean_key = self._text(name)
        names_secret = self._names_secret(name)
        if clean_key is key and not names_secret and len(key) <= _MAX_CACHED_LENGTH:
            if len(self._harmless_keys) >= _MAX_CACHED:
                self._harmless_keys.clear()
            self._harmless_keys.add(key)
        if clean_key is not key:
            clean_key = _unused(clean_key, result)
        return clean_key, self._secret(value) if names_secret else self._value(value)

    def _secret(self, value: Any) -> Any:
        """What is under a secret's name goes, whatever its type; there is no secret in None, True and nothing."""
        if value is None or isinstance(value, bool) or value in ("", self._replacement):
            return value
        self.redacted += 1
        return self._replacement

    def _text(self, text: str) -> str:
        if len(text) < _MIN_LENGTH or text in self._clean:
            return text
        lower = text.lower()
        result = text
        for hints, pattern, substitution in self._rules:
            if hints:
                for hint in hints:
                    if hint in lower:
                        break
                else:
                    continue
            result = pattern.sub(substitution, result)
        if result != text:
            return result
        if len(text) <= _MAX_CACHED_LENGTH:
            if len(self._clean) >= _MAX_CACHED:
                self._clean.clear()
            self._clean.add(text)
        return text

    def _substitution(self, detector: Detector) -> Callable[[re.Match[str]], str]:
        group: int | str = "secret" if "secret" in detector.compiled.groupindex else 0
        check = detector.check or bool

        def substitute(match: re.Match[str]) -> str:
            whole, secret = match[0], match[group]
            # What a former pass has left must not be taken for a secret: redacting twice changes nothing.
            if match.string.startswith(self._replacement, match.start(group)) or not check(match):
                return whole
            self.redacted += 1
            start = match.start(group) - match.start()
            return whole[:start] + self._replacement + whole[start + len(secret) :]

        return substitute

    def __repr__(self) -> str:
        return f"redact({len(self._detectors)} detectors, redacted={self.redacted})"


def _same(left: object, right: object) -> bool:
    return left is right


def _unused(key: str, result: Mapping[str, Any]) -> str:
    """Number *key* where two keys have become equal by redaction, so that neither value is lost."""
    candidate, number = key, 1
    while candidate in result:
        number += 1
        candidate = f"{key}#{number}"
    return candidate


def redact(
    *,
    keys: Iterable[str] = DEFAULT_KEYS,
    detectors: Iterable[Detector] = DEFAULT_DETECTORS,
    replacement: str = "[redacted]",
    allow: Iterable[str] = (),
) -> Redact:
    """Replace secrets in payload and metadata, at every depth, before anything else sees the event.

    Values under a key that names a secret are replaced whole. All other strings (keys, error messages, stack traces,
    span attributes, JSON in a string) and bytes are searched for what looks like a secret; of a string only the
    secret is replaced, a bytes object is replaced whole. It fails closed: the bus drops an event that it could not
    redact. Register it first. Channel and name are not searched: they are identifiers.

    Args:
        keys: Names of keys; `zupa.reducers.DEFAULT_KEYS` describes how they match. To add some:
            ``{*DEFAULT_KEYS, "badge_number"}``.
        detectors: What secrets look like. To add some: ``(*DEFAULT_DETECTORS, EMAIL)``.
        replacement: What stands in for a secret.
        allow: Keys that *keys* matches but that hold no secret, such as ``"page_token"``. Their values are still
            searched by *detectors*.

    Raises:
        ConfigurationError: a setting is unusable.
    """
    return Redact(keys=keys, detectors=detectors, replacement=replacement, allow=allow)
