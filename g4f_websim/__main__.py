"""Run the command as `python -m g4f_websim`."""

import sys

from . import cli

if __name__ == "__main__":
    # A spawned worker process imports the main module of its parent, but never a `__main__.py`. With this spec it
    # imports cli.py, which registers Websim with g4f.
    __spec__ = cli.__spec__
    sys.exit(cli.main())
