"""Start g4f's server and GUI even if g4f's own site cannot be reached.

Once a day, g4f downloads a list of further providers from its own site. The download has no timeout, and g4f ends with
an error if it fails. Websim does not need the list.
"""

import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import date
from pathlib import Path

import g4f.config

from .offline import write_provider_list

# A reachable site sends the list in less than a second.
DOWNLOAD_SECONDS = 5.0

CACHE_VARIABLE = "G4F_CACHE_DIR"


@contextmanager
def provider_list() -> Iterator[bool]:
    """Let g4f find a provider list: today's from its cache, a new one from its site, or a minimal one.

    The minimal list is in a temporary cache folder, so that the next run tries the download again.

    Yields:
        Whether the list is g4f's own.
    """
    # g4f up to 8.6 has no such function, and keeps the list in the folder of the user's cookies.
    get_cache_dir = getattr(g4f.config, "get_cache_dir", None)
    file = get_cache_dir and Path(get_cache_dir(), ".models", str(date.today()), "providers.json")
    if not file or file.exists():
        yield True
        return
    downloaded = _download()
    if downloaded:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(downloaded)
        yield True
        return
    print(
        "g4f-websim: g4f's list of providers could not be downloaded from its site; "
        "continuing without it (Websim needs no list)",
        file=sys.stderr,
    )
    with tempfile.TemporaryDirectory(prefix="g4f-websim-", ignore_cleanup_errors=True) as folder:
        write_provider_list(Path(folder))
        before = os.environ.get(CACHE_VARIABLE)
        # g4f's worker processes inherit the variable.
        os.environ[CACHE_VARIABLE] = folder
        try:
            yield False
        finally:
            if before is None:
                del os.environ[CACHE_VARIABLE]
            else:
                os.environ[CACHE_VARIABLE] = before


def _download() -> bytes | None:
    """Return the list from g4f's site, or None if that takes too long or the response is not a list.

    A timeout of the request would not include the name resolution, which can take half a minute without a network.
    """
    import requests  # a requirement of g4f
    from g4f.client.factory import AbstractClientFactory

    downloaded: list[bytes] = []

    def download() -> None:
        with suppress(Exception):  # those of requests, ssl and json, for example of a network's login page
            response = requests.get(AbstractClientFactory._live_providers_url, timeout=DOWNLOAD_SECONDS)
            response.raise_for_status()
            if "providers" in response.json():
                downloaded.append(response.content)

    thread = threading.Thread(target=download, name="g4f-provider-list", daemon=True)
    thread.start()
    thread.join(DOWNLOAD_SECONDS)
    return downloaded[0] if downloaded else None
