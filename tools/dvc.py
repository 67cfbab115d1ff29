"""DVC, for long grids: `python -m tools.dvc repro` is `dvc repro`, and so are all its commands; see `fast_dvc.py`."""

import sys

from dvc.cli import main

from tools import fast_dvc

if __name__ == "__main__":
    fast_dvc.install()
    sys.exit(main())
