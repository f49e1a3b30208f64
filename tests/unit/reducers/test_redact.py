"""`redact`: canaries planted everywhere must not come out, and what is no secret must."""

from __future__ import annotations

import base64
import copy
import datetime as dt

import pytest

from zupa.errors import ConfigurationError
from zupa.event import Event
from zupa.ports import Reducer
from zupa.reducers import DEFAULT_DETECTORS, DEFAULT_KEYS, EMAIL, Detector, redact
from zupa.transition import Transition

PEM = "-----BEGIN RSA PRIVATE KEY-----\nMIIEcanary\nAAAA\n-----END RSA PRIVATE KEY-----"
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.SflKxwRJSMeKKF2QT4fwpMeJf36POk6y"
BASIC = base64.b64encode(b"user:canary-password").decode()
R = "[redacted]"

SECRETS = {
    "openai": "sk-proj-canary0123456789abcdef",
    "anthropic": "sk-ant-api03-canary_0123456789-abcdef",
    "aws": "AKIAIOSFODNN7EXAMPLE",
    "github": "ghp_canary0123456789abcdefghijklmnopqr",
    "github_fine": "github_pat_11CANARY0123456789_abcdef",
    "gitlab": "glpat-canary0123456789abcd",
    "slack": "xoxb-123456789012-canaryabcdef",
    "google": "AIzaSyCanary0123456789abcdefghijklmnopq",
    "stripe": "sk_live_canary0123456789",
    "hugging_face": "hf_canary0123456789abcdefghijkl",
    "jwt": JWT,
    "card": "4111 1111 1111 1111",
    "card_dashes": "5500-0000-0000-0004",
    "card_plain": "378282246310005",
}


def event(payload, metadata=None):
    return Event("agent", "log", payload, metadata or {}, seq=1)


def clean(value, **settings):
    return redact(**settings)(event({"x": value})).payload["x"]


def test_an_event_without_secrets_comes_back_as_the_same_object():
    reducer = redact()
    plain = event({"node": "plan", "n": 1, "list": [1, "two", {"three": None}], "bytes": b"\x00\xff"}, {"m": "x"})
    assert reducer(plain) is plain
    assert reducer(plain) is plain, "the second time from the cache"
    assert reducer.redacted == 0


@pytest.mark.parametrize("secret", SECRETS.values(), ids=SECRETS.keys())
def test_secrets_are_found_by_what_they_look_like_wherever_they_are(secret):
    reducer = redact()
    places = {
        "plain": secret,
        "text": f"failed with {secret}, retrying",
        "nested": [{"deeper": [f"({secret})"]}],
        "tuple": ("a", secret),
        "bytes": secret.encode(),
        f"key {secret} end": 1,
        "error": {"type": "ValueError", "message": secret, "stacktrace": f'  call("{secret}")\nValueError: {secret}'},
        "attributes": {"llm.input": f'{{"text": "{secret}"}}'},
        "url": f"https://host/path?q={secret.replace(' ', '-')}&x=1",
    }
    before = copy.deepcopy(places)
    out = reducer(event(places, {"note": secret}))
    assert places == before, "the payload of the original must not change"
    assert secret not in repr(out)
    assert secret.replace(" ", "-") not in repr(out)
    assert out.payload["text"] == f"failed with {R}, retrying"
    assert out.payload["bytes"] == R
    assert out.payload[f"key {R} end"] == 1
    assert out.payload["tuple"] == ("a", R)
    assert out.metadata == {"note": R}
    assert reducer.redacted >= len(places) + 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Bearer canaryabc123", f"Bearer {R}"),
        ("curl -H 'bearer  abcdefghijkl' x", f"curl -H 'bearer  {R}' x"),
        (f"Basic {BASIC}", f"Basic {R}"),
        ("postgres://admin:hunter2@db:5432/app", f"postgres://{R}@db:5432/app"),
        ("redis://:p@ss@host/0", f"redis://{R}@host/0"),
        ("amqp://u:a#b@h and http://ok/", f"amqp://{R}@h and http://ok/"),
        (f"key:\n{PEM}\nend", f"key:\n{R}\nend"),
        ("cut off: -----BEGIN PRIVATE KEY-----\nMIIE", f"cut off: {R}"),
        ("Authorization: Token abc def\nHost: x", f"Authorization: {R}\nHost: x"),
        ("Cookie: a=1; b=2", f"Cookie: {R}"),
        ("GET /?api_key=canary&x=1", f"GET /?api_key={R}&x=1"),
        ('{"password": "hunter 2", "a": 1}', f'{{"password": "{R}", "a": 1}}'),
        (r'{"body": "{\"password\": \"hunter 2\"}"}', rf'{{"body": "{{\"password\": \"{R}\"}}"}}'),
        (r'{"password": "a\"b c", "d": 1}', rf'{{"password": "{R}", "d": 1}}'),
        ("Client(api_key='abc', n=1)", f"Client(api_key='{R}', n=1)"),
        ("Server=x;Password=hunter2;Encrypt=yes", f"Server=x;Password={R};Encrypt=yes"),
        ("OPENAI_API_KEY=abc", f"OPENAI_API_KEY={R}"),
        ("access_token: abc", f"access_token: {R}"),
    ],
)
def test_secrets_in_context_leave_the_context(text, expected):
    assert clean(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "task-based-risk-management-approach",
        "bearer authentication failed",
        "basic understanding of networks",
        "https://example.org:8080/path@x?mail=a@b.c",
        "ssh://git@github.com/a/b",
        "2024-01-02T03:04:05.678901Z",
        "1700000000000000000 ns, 1700000000000 ms",
        "4111 1111 1111 1112",
        "0.4111111111111111",
        "id-4111111111111111x",
        "someone@example.org",
        "tokens: 5, total_tokens=7, tokenizer: x",
        "password: None, secret: null",
        "AKIA",
        "eyJ",
        "550e8400-e29b-41d4-a716-446655440000",
        "author: Jane",
    ],
)
def test_what_only_resembles_a_secret_stays(text):
    plain = event({"x": text})
    assert redact()(plain) is plain


@pytest.mark.parametrize(
    "key",
    [
        "password", "PASSWORD", "Passwd", "db_password", "dbPassword", "DB-PASSWORD", "password_hash", "userpassword",
        "secret", "client_secret", "clientSecret", "secret_value", "api_key", "apikey", "apiKey", "APIKey", "X-Api-Key",
        "x.api.key", "OPENAI_API_KEY", "openaiapikey", "token", "access_token", "refreshToken", "authtoken", "auth",
        "authorization", "Proxy-Authorization", "http.request.header.authorization", "cookie", "Set-Cookie", "session",
        "sessionid", "credential", "credentials", "aws_credentials", "private_key", "ssh_key", "ssn", "credit_card",
        "creditCardNumber", "card_number", "cvv", "csrf_token", "jwt", "aws_secret_access_key", "\uff50assword",
    ],
)  # fmt: skip
def test_keys_that_name_a_secret(key):
    reducer = redact()
    out = reducer(event({key: "canary", "n": {key: 12345}}, {key: ["canary"]}))
    assert out.payload == {key: R, "n": {key: R}}
    assert out.metadata == {key: R}
    assert reducer.redacted == 3


@pytest.mark.parametrize(
    "key",
    [
        "input_tokens", "total_tokens", "token_count", "tokenCount", "gen_ai.usage.input_tokens", "gen_ai.token.type",
        "tokenizer", "max_tokens", "gen_ai.server.time_to_first_token", "author", "authored_by", "secretary",
        "session.id", "session_id", "thread_id", "passenger", "monkey", "key", "keys", "cookiecutter", "sessions",
        "card", "design", "author_name",
        *Transition.__struct_fields__,
    ],
)  # fmt: skip
def test_keys_that_name_none(key):
    plain = event({key: "value", "n": {key: 5}})
    assert redact()(plain) is plain


@pytest.mark.parametrize("nothing", [None, True, False, "", R])
def test_nothing_is_no_secret(nothing):
    plain = event({"password": nothing})
    reducer = redact()
    assert reducer(plain) is plain
    assert reducer.redacted == 0


def test_containers_under_a_secret_key_go_whole():
    assert redact()(event({"auth": {"user": "u", "list": [1]}})).payload == {"auth": R}


def test_keys_that_become_equal_keep_both_values():
    first, second = SECRETS["github"], SECRETS["aws"]
    assert redact()(event({first: 1, second: 2, R: 3})).payload[f"{R}#2"] == 2


def test_settings_change_what_is_redacted():
    assert clean("a@b.org", detectors=(*DEFAULT_DETECTORS, EMAIL)) == R
    assert clean("acme_123", detectors=(Detector("acme", r"acme_\d+", ("acme_",)),), replacement="<gone>") == "<gone>"
    assert clean("password=x", detectors=()) == "password=x"
    custom = redact(keys={*DEFAULT_KEYS, "badge_number"}, allow=["page_token"])
    out = custom(event({"badgeNumber": 7, "pageToken": "abc", "next_page_token": "abc"}))
    assert out.payload == {"badgeNumber": R, "pageToken": "abc", "next_page_token": R}
    nothing = redact(keys=(), detectors=())
    plain = event({"password": SECRETS["aws"]})
    assert nothing(plain) is plain


def test_allowed_keys_are_still_searched():
    assert clean({"token": SECRETS["aws"]}, allow=("token",)) == {"token": R}


@pytest.mark.parametrize("replacement", [R, "***", "REMOVED BY ZUPA", "<secret>", "{:}@"])
@pytest.mark.parametrize(
    "text",
    [*SECRETS.values(), f"Basic {BASIC}", "Bearer canaryabc123", "a://u:p@h", "token=abc; cookie: x", 'pwd: "a b"'],
)
def test_a_second_pass_changes_nothing(text, replacement):
    reducer = redact(replacement=replacement)
    once = reducer(event({"x": text, "token": "abc"}))
    count = reducer.redacted
    assert reducer(once) == once
    assert reducer.redacted == count


def test_data_that_another_reducer_left_unnormalised_is_read_first():
    class Settings:
        def __str__(self):
            return f"Settings(key={SECRETS['openai']})"

    out = redact()(
        event({"error": ValueError(SECRETS["aws"]), "s": Settings(), 1: "password=abc", "when": dt.date(2024, 1, 2)})
    )
    assert "canary" not in repr(out)
    assert SECRETS["aws"] not in repr(out)
    assert out.payload["1"] == f"password={R}"
    assert out.payload["when"] == "2024-01-02"


def test_it_fails_closed_and_does_not_talk():
    reducer = redact(replacement="hush", allow=["page_token"])
    reducer(event({"password": "canary"}))
    assert reducer.fails_closed is True
    assert isinstance(reducer, Reducer)
    assert reducer.name == "redact"
    assert "canary" not in repr(reducer)
    assert "redacted=1" in repr(reducer)


def test_memory_is_bounded():
    reducer = redact()
    for number in range(20_000):
        reducer(event({f"key-{number}": f"value-{number}"}))
    assert len(reducer._clean) <= 8192
    assert len(reducer._harmless_keys) <= 8192


@pytest.mark.parametrize(
    ("part", "times"),
    [
        ("password", 10_000),
        ("password='", 10_000),
        ("://", 30_000),
        ("://a:", 20_000),
        ("4 ", 50_000),
        ("eyJ.", 30_000),
        ("bearer ", 20_000),
        ("\\token", 20_000),
        ("cookie:", 20_000),
        ("-----BEGIN PRIVATE KEY-----", 4_000),
        ("a.", 50_000),
        ("a@", 50_000),
    ],
)
@pytest.mark.timeout(20)
def test_no_text_makes_the_search_slow(part, times):
    # Quadratic, each of these would take minutes; linear, it takes milliseconds.
    texts = [
        part * times,
        "token" + part * times,
        "://" + part * times + "@",
        "-----BEGIN " + part * times + "PRIVATE KEY",
    ]
    redact(detectors=(*DEFAULT_DETECTORS, EMAIL))(event({"x": texts}))


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({"replacement": ""}, "replacement"),
        ({"replacement": None}, "replacement"),
        ({"replacement": "<secret: gone>"}, "replacement"),
        ({"keys": "password"}, "keys"),
        ({"keys": [1]}, "keys"),
        ({"keys": ["*"]}, "keys"),
        ({"keys": None}, "keys"),
        ({"allow": "x"}, "allow"),
        ({"detectors": ["x"]}, "detectors"),
        ({"detectors": EMAIL}, "detectors"),
        ({"detectors": 5}, "detectors"),
    ],
)
def test_bad_settings_are_refused_by_name(settings, names):
    with pytest.raises(ConfigurationError, match=rf"redact\({names}\)"):
        redact(**settings)


def test_bad_detectors_are_refused():
    with pytest.raises(ConfigurationError, match="'x', pattern"):
        Detector("x", "(")
    with pytest.raises(ConfigurationError, match="hints="):
        Detector("x", "x", ("UPPER",))
    with pytest.raises(ConfigurationError, match="hints="):
        Detector("x", "x", "upper")
