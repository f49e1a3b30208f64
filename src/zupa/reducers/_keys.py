"""Which keys hold secrets: a list in the manner of Sentry's, and how keys are matched against it.

A key is split into words at everything that is neither letter nor digit and where lower case meets upper case:
``X-Api-Key``, ``x_api_key`` and ``xApiKey`` are one. An entry matches a key that equals it or ends in it, word by
word: ``token`` matches ``access_token`` and ``github.token``, but not ``token_count``, ``input_tokens`` or
``tokenizer``; nor does anything match ``time_to_first_token`` and its like. Words of an entry may also be written
together: ``api_key`` matches ``apikey``. A star at its end lets words follow (``password*`` matches
``password_hash``); a star at its start lets it be the end of a longer word (``*token`` matches ``authtoken``).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from typing import Final

from zupa.errors import ConfigurationError

DEFAULT_KEYS: Final[frozenset[str]] = frozenset(
    {
        "*password*",
        "*passwords*",
        "*passwd*",
        "*passphrase*",
        "pwd",
        "*secret*",
        "*secrets*",
        "*api_key*",
        "*api_keys*",
        "access_key*",
        "account_key",
        "encryption_key",
        "*private_key*",
        "shared_key",
        "signing_key",
        "ssh_key*",
        "*token",
        "auth",
        "oauth",
        "*authorization",
        "bearer",
        "jwt",
        "*credential*",
        "*credentials*",
        "*cookie",
        "*cookies",
        "csrf",
        "xsrf",
        "session",
        "sessionid",
        "session_key",
        "phpsessid",
        "jsessionid",
        "x_amz_signature",
        "connection_string",
        "dsn",
        "otp",
        "ssn",
        "social_security_number",
        "*credit_card*",
        "credit_card_number",
        "card_number",
        "cc_number",
        "cvc",
        "cvv",
    }
)
"""Source: Sentry's EventScrubber DEFAULT_DENYLIST, and what model and cloud providers call their credentials. Session
*ids* are not in it: ``session.id`` is an OpenTelemetry attribute that says which conversation an event belongs to."""

_LOWER_TO_UPPER: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_LANGUAGE_TOKEN: Final = re.compile(  # time_to_first_token, cost_per_token, eos_token: parts of a text, not credentials
    r"(?:^|_)(?:first|last|input|output|prompt|completion|per|bos|eos|pad|unk|mask|sep|cls|stop)_token$"
)
_SEPARATORS: Final = re.compile(r"[\W_]+")


def words_of(key: str) -> str:
    """Return the words of *key* in lower case, joined by underscores."""
    if not key.isascii():
        key = unicodedata.normalize("NFKC", key)
    return _SEPARATORS.sub("_", _LOWER_TO_UPPER.sub("_", key).strip()).strip("_").lower()


class KeyMatcher:
    """Tells whether a key names a secret."""

    def __init__(self, keys: Iterable[str], allow: Iterable[str]) -> None:
        entries = _strings("redact(keys)", keys)
        self._allowed = frozenset(words_of(key) for key in _strings("redact(allow)", allow))
        self._pattern = re.compile("|".join(sorted(map(_entry_pattern, entries))) or r"(?!)")

    def __call__(self, key: str) -> bool:
        words = words_of(key)
        if words in self._allowed or _LANGUAGE_TOKEN.search(words):
            return False
        return self._pattern.search(words) is not None


def _strings(setting: str, values: Iterable[str]) -> list[str]:
    """Return *values* as a list of strings that hold at least one word each."""
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise ConfigurationError(f"{setting} is a {type(values).__name__}: give a list, tuple or set of key names")
    entries = list(values)
    for entry in entries:
        if not isinstance(entry, str) or not words_of(entry.strip("*")):
            raise ConfigurationError(
                f"{setting} contains {entry!r}: every entry must be a key name, such as 'password'"
            )
    return entries


def _entry_pattern(entry: str) -> str:
    words = "_?".join(map(re.escape, words_of(entry.strip("*")).split("_")))
    start = "" if entry.startswith("*") else "(?:^|_)"
    end = "(?:_|$)" if entry.endswith("*") else "$"
    return f"{start}{words}{end}"
