"""What secrets look like: detectors for strings, each a regular expression behind cheap substring tests.

Every expression is linear in the length of the text: bounded repeats, no nested quantifiers over the same characters.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable
from typing import Final

import msgspec

from zupa.errors import ConfigurationError


class Detector(msgspec.Struct, frozen=True):
    """One kind of secret.

    Attributes:
        name: For people.
        pattern: A regular expression. Where it has a group called ``secret`` only that is replaced, else the whole.
        hints: Lower-case substrings of which one must occur in the lower-cased text, before the expression is tried;
            none means that it is always tried, which costs time on every string of every event.
        check: Says of a match whether it really is a secret, e.g. by a checksum.
    """

    name: str
    pattern: re.Pattern[str] | str
    hints: tuple[str, ...] = ()
    check: Callable[[re.Match[str]], bool] | None = None

    def __post_init__(self) -> None:
        try:
            re.compile(self.pattern)
        except (re.error, TypeError) as error:
            raise ConfigurationError(f"Detector({self.name!r}, pattern): not a regular expression: {error}") from error
        if isinstance(self.hints, str) or any(hint != hint.lower() for hint in self.hints):
            raise ConfigurationError(
                f"Detector({self.name!r}, hints={self.hints!r}) is unusable: give a tuple of lower-case strings"
            )

    @property
    def compiled(self) -> re.Pattern[str]:
        """The pattern, compiled."""
        return re.compile(self.pattern)


def luhn(match: re.Match[str]) -> bool:
    """Say whether the digits of *match* carry a valid card checksum."""
    digits = [int(character) for character in reversed(match[0]) if character.isdigit()]
    doubled = (2 * digit - 9 if digit > 4 else 2 * digit for digit in digits[1::2])
    return 13 <= len(digits) <= 19 and (sum(digits[::2]) + sum(doubled)) % 10 == 0


def _is_user_and_password(match: re.Match[str]) -> bool:
    text = match["secret"].rstrip("=")
    try:
        return b":" in base64.b64decode(text + "=" * (-len(text) % 4))
    except binascii.Error:
        return False


_NAMES: Final = (
    r"(?:pass(?:word|wd|phrase)|secret|api[_-]?key|access[_-]?key|account[_-]?key|private[_-]?key|token|pwd|"
    r"authorization|cookie|credentials?)"
)

DEFAULT_DETECTORS: Final[tuple[Detector, ...]] = (
    Detector(
        "private_key",
        re.compile(
            r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----.*?"
            r"(?:-----END [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----|\Z)",
            re.DOTALL,
        ),
        ("private key",),
    ),
    Detector(
        "header",
        re.compile(r"(?:authorization|cookie)[ \t]{0,8}:[ \t]{0,8}(?P<secret>[^\s\"'\\][^\r\n\"]*)", re.IGNORECASE),
        ("authorization", "cookie"),
    ),
    Detector("model_provider_key", r"(?<![A-Za-z0-9])sk-[A-Za-z0-9_\-]{16,}", ("sk-",)),
    Detector(
        "stripe_key",
        r"(?<![A-Za-z0-9])(?:[rs]k_(?:live|test)|whsec)_[A-Za-z0-9]{10,}",
        ("k_live_", "k_test_", "whsec_"),
    ),
    Detector("aws_access_key", r"(?<![A-Za-z0-9])(?:AKIA|ASIA)[A-Z0-9]{16}(?![A-Za-z0-9])", ("akia", "asia")),
    Detector(
        "github_token",
        r"(?<![A-Za-z0-9])(?:gh[pousr]_[A-Za-z0-9]{20,}|github_pat_[A-Za-z0-9_]{20,})",
        ("ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_"),
    ),
    Detector(
        "gitlab_token", r"(?<![A-Za-z0-9])gl[a-z]{1,6}-[A-Za-z0-9_\-]{20,}", ("glpat-", "glptt-", "gldt-", "glrt-")
    ),
    Detector("hugging_face_token", r"(?<![A-Za-z0-9])hf_[A-Za-z0-9]{20,}", ("hf_",)),
    Detector("slack_token", r"(?<![A-Za-z0-9])(?:xox[a-z]|xapp)-[A-Za-z0-9\-]{10,}", ("xox", "xapp-")),
    Detector("google_key", r"(?<![A-Za-z0-9])AIza[A-Za-z0-9_\-]{30,}", ("aiza",)),
    Detector("jwt", r"(?<![A-Za-z0-9])eyJ[A-Za-z0-9_\-]{8,}\.[A-Za-z0-9_\-]{8,}(?:\.[A-Za-z0-9_\-]*)?", ("eyj",)),
    Detector(
        "bearer",
        re.compile(
            # "bearer authentication failed" is no secret.
            r"\bbearer[ \t]{1,8}(?!(?:auth\w*|tokens?|credentials?|scheme|certificates?)\b)"
            r"(?P<secret>[A-Za-z0-9._~+/\-]{8,}=*)",
            re.IGNORECASE,
        ),
        ("bearer",),
    ),
    Detector(
        "basic",
        re.compile(r"\bbasic[ \t]{1,8}(?P<secret>[A-Za-z0-9+/]{6,}={0,2})", re.IGNORECASE),
        ("basic",),
        _is_user_and_password,
    ),
    Detector("url_userinfo", r"(?<=://)(?P<secret>[^\s/?#:@\"'<>]*:[^\s/?\"'<>]*)@(?=[^\s/@])", ("://",)),
    Detector(
        # 13 to 19 digits, perhaps in groups, that start as the issuers' ranges do: unix times in ms or ns start with 1.
        "card_number",
        r"[3-6](?<![\w.].)\d(?:[ \-]?\d){11,17}(?!\w)|2(?<![\w.].)[2-7](?:[ \-]?\d){14}(?!\w)",
        check=luhn,
    ),
    Detector(
        # name=value and name: value in any text: query strings, JSON in a string, reprs, connection strings.
        "assignment",
        re.compile(
            _NAMES + r"(?:\\{0,4}[\"'])?[ \t]{0,8}[=:][ \t]{0,8}"
            r"(?P<quote>\\{0,4}[\"'])?"
            r"(?P<secret>(?(quote)(?:(?!(?P=quote))(?:\\.|.))+|(?!(?:none|null|true|false)\b)[^\s\"'\\,;&(){}\[\]<>]+))",
            re.IGNORECASE | re.DOTALL,
        ),
        (
            "password",
            "passwd",
            "passphrase",
            "pwd",
            "secret",
            "api_key",
            "apikey",
            "api-key",
            "access",
            "account",
            "private",
            "token",
            "authorization",
            "cookie",
            "credential",
        ),
    ),
)
"""In the order in which they are applied. E-mail addresses are not among them: add `EMAIL`."""

EMAIL: Final = Detector("email", r"[A-Za-z0-9._%+\-]{1,64}@(?:[A-Za-z0-9\-]{1,63}\.){1,8}[A-Za-z]{2,24}", ("@",))
"""Opt-in: ``redact(detectors=(*DEFAULT_DETECTORS, EMAIL))``."""
