"""`BusConfig`: bad settings raise and say which; bad environment variables are warned of and ignored."""

from __future__ import annotations

import logging

import pytest

from zupa.config import BusConfig, DropPolicy, parse_boolean
from zupa.errors import ConfigurationError

NUMBERS = [
    ("max_queue_size", 1),
    ("max_queue_bytes", 1024),
    ("max_export_batch_size", 1),
    ("schedule_delay_millis", 0),
    ("export_timeout_millis", 1),
    ("shutdown_timeout_millis", 0),
    ("linger_millis", 0),
    ("slice_size", 1),
    ("slow_subscriber_millis", 1),
]


def test_the_defaults_are_opentelemetrys():
    config = BusConfig()
    assert (config.max_queue_size, config.max_export_batch_size, config.export_timeout_millis) == (2048, 512, 30_000)
    assert config.drop_policy is DropPolicy.DROP_NEWEST


def test_a_configuration_is_frozen():
    with pytest.raises(AttributeError):
        BusConfig().max_queue_size = 1


@pytest.mark.parametrize(("name", "minimum"), NUMBERS)
@pytest.mark.parametrize("bad", ["minimum-1", True, "7", None, float("nan"), float("inf"), -float("inf")], ids=repr)
def test_bad_numbers_are_refused_by_name(name, minimum, bad):
    value = minimum - 1 if bad == "minimum-1" else bad
    with pytest.raises(ConfigurationError, match=rf"BusConfig\.{name}=.* must be a number >= {minimum}"):
        BusConfig(**{name: value})


@pytest.mark.parametrize(("name", "minimum"), NUMBERS)
def test_the_minimum_itself_is_allowed(name, minimum):
    settings = {name: minimum}
    if name == "max_queue_size":
        settings["max_export_batch_size"] = 1
    assert getattr(BusConfig(**settings), name) == minimum


@pytest.mark.parametrize("name", ["max_queue_size", "max_queue_bytes", "max_export_batch_size", "slice_size"])
def test_counts_must_be_whole(name):
    with pytest.raises(ConfigurationError, match=rf"BusConfig\.{name}=2000\.5 .*whole number"):
        BusConfig(**{name: 2000.5})


def test_a_batch_larger_than_the_queue_is_refused():
    with pytest.raises(ConfigurationError, match=r"max_export_batch_size=512 is larger than max_queue_size=100"):
        BusConfig(max_queue_size=100, max_export_batch_size=512)


def test_a_batch_size_that_is_not_given_fits_the_queue():
    assert BusConfig(max_queue_size=100).max_export_batch_size == 100
    assert BusConfig(max_queue_size=4096).max_export_batch_size == 512


def test_an_unknown_drop_policy_is_refused_with_the_known_ones():
    with pytest.raises(ConfigurationError, match=r"BusConfig\.drop_policy='oldest'.*DropPolicy\.DROP_NEWEST"):
        BusConfig(drop_policy="oldest")


def test_configuration_errors_are_value_errors():
    with pytest.raises(ValueError, match="slice_size"):
        BusConfig(slice_size=0)


def test_the_environment_is_read_with_units_and_types():
    config = BusConfig.from_env(
        {
            "OTEL_BSP_MAX_QUEUE_SIZE": "4096",
            "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": " 256 ",
            "OTEL_BSP_SCHEDULE_DELAY": "250",
            "OTEL_BSP_EXPORT_TIMEOUT": "1.5e3",
            "ZUPA_BUS_MAX_QUEUE_BYTES": "2048",
            "ZUPA_BUS_LINGER": "0",
            "ZUPA_BUS_SHUTDOWN_TIMEOUT": "100",
            "UNRELATED": "x",
        }
    )
    assert config == BusConfig(
        max_queue_size=4096,
        max_export_batch_size=256,
        schedule_delay_millis=250,
        export_timeout_millis=1500,
        max_queue_bytes=2048,
        linger_millis=0,
        shutdown_timeout_millis=100,
    )


def test_the_process_environment_is_the_default(monkeypatch):
    monkeypatch.setenv("ZUPA_BUS_LINGER", "7")
    assert BusConfig.from_env().linger_millis == 7


@pytest.mark.parametrize("text", ["", " ", "\t"])
def test_an_empty_variable_counts_as_unset(text, caplog):
    assert BusConfig.from_env({"OTEL_BSP_MAX_QUEUE_SIZE": text}) == BusConfig()
    assert caplog.records == []


@pytest.mark.parametrize(
    ("variable", "setting", "text"),
    [
        ("OTEL_BSP_MAX_QUEUE_SIZE", "max_queue_size", "many"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "max_queue_size", "1.5"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "max_queue_size", "0"),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "max_export_batch_size", "-1"),
        ("OTEL_BSP_SCHEDULE_DELAY", "schedule_delay_millis", "-0.5"),
        ("OTEL_BSP_EXPORT_TIMEOUT", "export_timeout_millis", "nan"),
        ("OTEL_BSP_EXPORT_TIMEOUT", "export_timeout_millis", "inf"),
        ("OTEL_BSP_EXPORT_TIMEOUT", "export_timeout_millis", "1e400"),
        ("ZUPA_BUS_MAX_QUEUE_BYTES", "max_queue_bytes", "1023"),
        ("ZUPA_BUS_LINGER", "linger_millis", "20ms"),
        ("ZUPA_BUS_SHUTDOWN_TIMEOUT", "shutdown_timeout_millis", "-1"),
    ],
)
def test_unusable_variables_are_warned_of_and_ignored(variable, setting, text, caplog):
    with caplog.at_level(logging.WARNING, logger="zupa.config"):
        config = BusConfig.from_env({variable: text})
    assert config == BusConfig()
    assert len(caplog.records) == 1
    assert variable in caplog.text
    assert setting in caplog.text


def test_overrides_win_over_the_environment():
    config = BusConfig.from_env({"OTEL_BSP_MAX_QUEUE_SIZE": "4096", "ZUPA_BUS_LINGER": "5"}, max_queue_size=1000)
    assert (config.max_queue_size, config.linger_millis) == (1000, 5)


def test_a_small_queue_brings_the_default_batch_down():
    assert BusConfig.from_env({"OTEL_BSP_MAX_QUEUE_SIZE": "100"}).max_export_batch_size == 100
    assert BusConfig.from_env({"OTEL_BSP_MAX_QUEUE_SIZE": "1000"}).max_export_batch_size == 512


def test_a_combination_that_cannot_work_raises():
    with pytest.raises(ConfigurationError, match=r"max_export_batch_size=200 is larger than max_queue_size=100"):
        BusConfig.from_env({"OTEL_BSP_MAX_QUEUE_SIZE": "100", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "200"})


@pytest.mark.parametrize(
    ("text", "value"), [("true", True), (" TRUE ", True), ("1", False), ("yes", False), ("", False)]
)
def test_only_true_is_true(text, value):
    assert parse_boolean(text) is value
