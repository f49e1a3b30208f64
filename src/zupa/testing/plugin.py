"""The pytest plugin: the fixture ``zupa_capture``.

Every pytest run of an environment with zupa loads this module, so it imports nothing until the fixture is used.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from zupa.testing import Capture


@pytest.fixture
def zupa_capture() -> Iterator[Capture]:
    """A bus with fixed ids and time, on which zupa's instrumentations emit; see `zupa.testing.Capture`."""
    from zupa.testing import Capture  # noqa: PLC0415 - see the module's text

    with Capture() as capture:
        yield capture


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, None]:
    """Add the tree of what ran to the report of a failed test that uses the fixture."""
    outcome = yield
    report = outcome.get_result()
    capture = getattr(item, "funcargs", {}).get("zupa_capture")
    if capture is None or report.when != "call" or not report.failed:
        return
    try:
        text = capture.tree()
    except Exception as error:  # noqa: BLE001 - the test's own failure must be reported whatever happens here
        text = f"(not available: {error})"
    if text:
        report.sections.append(("zupa_capture", text))
