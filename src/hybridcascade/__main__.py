"""`python -m hybridcascade` is the `hybridcascade` command."""

from __future__ import annotations

import sys

from hybridcascade.cli import main

if __name__ == "__main__":
    sys.exit(main())
