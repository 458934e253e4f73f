"""`python -m g4f_websim`: the command g4f-websim."""

import sys

from . import cli

if __name__ == "__main__":
    # What a spawned worker imports in place of this module, which it would not import again; so it knows Websim.
    __spec__ = cli.__spec__
    sys.exit(cli.main())
