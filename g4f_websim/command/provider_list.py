"""Start g4f's server and GUI even if g4f's own site cannot be reached.

Once a day, g4f downloads a list of further providers from its own site. The download has no timeout, and if it fails,
g4f ends with an error. Websim does not need the list.
"""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import date
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from ..offline import provider_list_settings, replaced
from .terminal import warn

# A reachable site sends the list in less than a second.
DOWNLOAD_SECONDS = 5.0

# Cloudflare, which serves g4f's site, refuses the default user agent of urllib on many sites.
HEADERS = {"User-Agent": "g4f-websim"}


@contextmanager
def provider_list() -> Iterator[bool]:
    """Let g4f find a provider list: today's from its cache, a new one from its site, or a minimal one.

    The minimal list is not written to the cache, so that the next run downloads the list again.

    Yields:
        Whether the list is g4f's own rather than the minimal one.
    """
    file = _cached_list()
    if file is None or file.exists():
        yield True
        return
    downloaded = _download()
    if downloaded:
        with suppress(OSError):  # the folder may be read-only; then g4f downloads the list once more
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(downloaded)
        yield True
        return
    warn("g4f's list of providers could not be downloaded from its site; continuing without it (Websim needs no list)")
    with replaced(list(provider_list_settings())):
        yield False


def _cached_list() -> Path | None:
    """Return the file in which g4f caches today's list, or None for g4f before 8.7, which has no cache folder."""
    try:
        from g4f.config import get_cache_dir
    except ImportError:
        return None
    return Path(get_cache_dir(), ".models", str(date.today()), "providers.json")


def _download() -> bytes | None:
    """Return the list from g4f's site, or None if that takes too long or the response is not a list.

    The download runs in a thread because the timeout of `urlopen` does not include the name resolution, which can take
    half a minute without a network.
    """
    from g4f.client.factory import AbstractClientFactory

    request = Request(AbstractClientFactory._live_providers_url, headers=HEADERS)
    downloaded: list[bytes] = []

    def download() -> None:
        try:
            with urlopen(request, timeout=DOWNLOAD_SECONDS) as response:
                content = response.read()
            providers = json.loads(content)
        except HTTPError as error:  # the exception keeps the connection open
            error.close()
        except Exception:  # many things can go wrong: no network, or the login page of a network instead of the list
            pass
        else:
            if isinstance(providers, dict) and "providers" in providers:
                downloaded.append(content)

    thread = threading.Thread(target=download, name="g4f-provider-list", daemon=True)
    thread.start()
    thread.join(DOWNLOAD_SECONDS)
    return downloaded[0] if downloaded else None
