"""For tests of code that emits: capture with the real bus and reducers, fixed ids and time, asserts on paths.

With pytest there is nothing to import: ask for the fixture ``zupa_capture``.
"""

from zupa.testing._capture import Capture
from zupa.testing._deterministic import IncrementalIds, ManualClock
from zupa.testing._exporter import InMemoryEventExporter
from zupa.testing._path import assert_path, path_of

__all__ = ["Capture", "InMemoryEventExporter", "IncrementalIds", "ManualClock", "assert_path", "path_of"]
