"""The command line: `zupa`."""

from zupa.cli._main import main

__all__ = ["main"]
