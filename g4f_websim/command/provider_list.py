"""Start g4f's server and GUI even if g4f's own site cannot be reached.

Once a day, g4f downloads a list of further providers from its own site. The download has no timeout, and if it fails,
g4f ends with an error. Websim does not need the list.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from ..offline import provider_list_settings, replaced
from .terminal import warn

# A reachable site sends the list in less than a second.
DOWNLOAD_SECONDS = 5.0


@contextmanager
def provider_list() -> Iterator[bool]:
    """Let g4f load its provider list, from its cache or its site, or replace the list by a minimal one.

    g4f loads the list in a thread, so that the command can continue if the site or the name resolution is too slow.

    Yields:
        Whether the list is g4f's own rather than the minimal one.
    """
    try:
        from g4f.client.factory import AbstractClientFactory as Factory
    except ImportError:  # g4f before 7.7 downloads no list
        yield True
        return

    def load() -> None:
        with suppress(Exception):  # there may be no network, or the login page of a network in place of the list
            Factory.create_provider(None, "default")

    thread = threading.Thread(target=load, name="g4f-provider-list", daemon=True)
    thread.start()
    thread.join(DOWNLOAD_SECONDS)
    if isinstance(Factory._live_providers, dict) and "providers" in Factory._live_providers:
        yield True
        return
    warn("g4f's list of providers could not be downloaded from its site; continuing without it (Websim needs no list)")
    with replaced(list(provider_list_settings())):
        yield False
