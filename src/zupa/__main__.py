"""``python -m zupa`` is `zupa`."""

import sys

from zupa.cli import main

if __name__ == "__main__":
    sys.exit(main())
