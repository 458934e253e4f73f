"""Run the command as `python -m g4f_websim`."""

import sys

from .command.main import main

if __name__ == "__main__":
    sys.exit(main())
