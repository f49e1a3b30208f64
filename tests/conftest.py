"""Fixtures that all tests share."""

from __future__ import annotations

import sys

import pytest
from tests.stress.kit import quick

from zupa import ReducerEventBus


@pytest.fixture
def make_bus():
    """Return a factory of quick buses that are shut down after the test; keywords are `BusConfig`'s."""
    buses = []

    def make(*exporters, clock=None, **changes):
        bus = ReducerEventBus(quick(**changes), exporters=exporters, clock=clock)
        buses.append(bus)
        return bus

    yield make
    for bus in buses:
        bus.shutdown(1_000)


@pytest.fixture
def bus(make_bus):
    return make_bus()


@pytest.fixture
def restless():
    """Let threads take turns as often as the interpreter can, so that races happen."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)
