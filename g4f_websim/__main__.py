"""Run the command as `python -m g4f_websim`."""

import sys

from .command import main

if __name__ == "__main__":
    # Each worker process of g4f's server (`api --workers 2`) imports the main module of its parent, unless that is a
    # `__main__.py`. With this spec, multiprocessing imports main.py instead, which registers Websim with g4f.
    __spec__ = main.__spec__
    sys.exit(main.main())
