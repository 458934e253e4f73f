"""Run tests/compat/scenarios.py on the last release of each g4f line: `python -m tests.compat.lines --help`.

Each line is installed apart, without its dependencies, into a cache folder; one folder of dependencies serves all.
"""

from __future__ import annotations

import argparse
import fnmatch
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from string import ascii_lowercase
from typing import NamedTuple

from tests.support.paths import ROOT

# The last release of each line, and what changed with the line for whoever plugs a provider in.
LINES = {
    "0.4.9.9": "the first with a Websim of its own, which the lists of g4f.models have too",
    "0.5.0.4": "",
    "0.5.1.6": "pictures are saved in generated_media instead of generated_images",
    "0.5.2.9": "",
    "0.5.3.2": "the last with format_image_prompt and get_create_function",
    "0.5.4.6": "the first with format_media_prompt and create_function",
    "0.5.5.7": "the last that lists a Websim of its own",
    "0.5.6.6": "the first that keeps that Websim in not_working, and looks up every name given to images",
    "0.5.7.6": "",
    "0.5.8.4": "",
    "0.5.9.0": "",
    "0.6.0.3": "",
    "0.6.1.6": "",
    "0.6.2.9": "",
    "0.6.3.7": "",
    "0.6.4.3": "",
    "6.0.5": "",
    "6.5.7": "",
    "6.6.7": "the last that keeps that Websim in not_working",
    "6.7.5": "",
    "6.8.9": "",
    "6.9.10": "",
    "7.0.10": "nest_asyncio2 instead of nest_asyncio",
    "7.1.9": "",
    "7.2.5": "",
    "7.3.9": "",
    "7.4.7": "",
    "7.5.9": "",
    "7.6.6": "the last with lists of providers made at import",
    "7.7.7": "lazy: __map_paths__",
    "7.8.12": "lazy: _provider_names and _loaded_providers",
    "7.9.6": "",
    "8.0.9": "",
    "8.1.8": "some providers can be listed only with what is fetched from the network",
    "8.2.9": "the last with _provider_names",
    "8.3.7": "lazy: ProviderLoader",
    "8.4.9": "lists pass over a provider that has failed three times of late",
    "8.5.9": "a model may name its provider",
    "8.6.9": "",
    "8.7.7": "the GUI's list of providers is a file",
    "8.8.6": "a provider is asked which keys are its own",
}

QUICK = ("0.4.9.9", "0.5.3.2", "0.5.5.7", "7.6.6", "7.7.7", "7.8.12", "8.2.9", "8.3.7", "8.8.6")


class Barred(NamedTuple):
    """Ways that g4f itself bars in some lines.

    Args:
        first, last: the lines, both among them.
        ways: patterns of `column: way`.
        error: what each of them fails with, or a part of it.
        why: what in g4f bars them.
    """

    first: str
    last: str
    ways: tuple[str, ...]
    error: str
    why: str


BARRED = (
    Barred(
        "0.4.9.9",
        "0.5.5.7",
        ("pictures: pictures of a client made for websim, *, by name, *",),
        "ValueError: Provider str does not support image generation",
        "images.generate looks up a provider's name that is given in the call, not one that the client was made with",
    ),
    Barred(
        "0.5.1.6",
        "0.5.1.6",
        ("variations: *",),
        "ValueError: not enough values to unpack",
        "create_variation wants pairs where it has put the picture itself",
    ),
    Barred(
        "0.5.2.9",
        "0.5.4.6",
        ("variations: variation, *",),
        "ProviderNotFoundError: Provider not found: url",
        "create_variation takes its response_format for a provider",
    ),
    Barred(
        "0.5.5.7",
        "0.5.5.7",
        ("variations: variation, *", "variations: variation downloaded, *"),
        "TypeError: Images.async_create_variation() takes 1 positional argument",
        "create_variation passes by position what async_create_variation takes by keyword",
    ),
    Barred(
        "0.4.9.9",
        "8.4.9",
        ("chat: model with websim before it",),
        "ModelNotFoundError: Model not found: Websim:flux",
        "no provider is read out of a model's name",
    ),
    Barred(
        "8.4.9",
        "8.4.9",
        ("registry: listed once by the gui",),
        "NameError: name 'Provider' is not defined",
        "the GUI's list of providers has a name that it does not import",
    ),
)

# What the lines need between them. 0.5.9 to 7.0 do not say that they need typing_extensions, which aiohttp brings
# before Python 3.13.
DEPENDENCIES = (
    "aiohttp>=3.13.4",
    "brotli",
    "coverage>=7.10",
    "flask[async]",
    "nest_asyncio",
    "nest_asyncio2",
    "pycryptodome",
    "requests",
    "typing_extensions",
)

AT_A_TIME = 2
SECONDS_A_LINE = 300

# What asyncio and aiohttp write to stderr of what was left open.
COMPLAINTS = ("Unclosed", "Event loop is closed", "was never retrieved", "was never awaited")

# Where programs look for the user's own files.
HOMES = ("HOME", "USERPROFILE", "APPDATA", "LOCALAPPDATA", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME")


class NotInstalledError(Exception):
    """pip could not install something; the words are pip's."""


class Result(NamedTuple):
    """How one way went: its column, its name, and why it failed, "" where it did not."""

    group: str
    way: str
    failure: str


def results_of(version: str, cache: Path) -> list[Result]:
    """Install a release of g4f where it is not in the cache yet, and go the ways into it."""
    print(f"g4f {version} ...", file=sys.stderr)
    try:
        line = installed(cache / f"g4f-{version}", [f"g4f=={version}"], "--no-deps")
    except NotInstalledError as error:
        return [Result("process", "pip installs it", str(error))]
    with tempfile.TemporaryDirectory(prefix="g4f-websim-lines-") as folder:
        try:
            process = subprocess.run(
                # Without site-packages, in which another g4f may be.
                [sys.executable, "-s", "-S", "-m", *measured(), "tests.compat.scenarios"],
                cwd=folder,
                env=environment(folder, [ROOT, line, dependencies(cache)]),
                capture_output=True,
                text=True,
                timeout=SECONDS_A_LINE,
            )
        except subprocess.TimeoutExpired:
            return [Result("process", "it ends", f"not within {SECONDS_A_LINE} s")]
    results = [Result(**json.loads(line)) for line in process.stdout.splitlines()]
    return [*results, *process_results(process)]


def measured() -> list[str]:
    """Return what runs a module under coverage, where this program is itself run so."""
    if "COVERAGE_PROCESS_CONFIG" not in os.environ:
        return []
    return ["coverage", "run", f"--rcfile={ROOT / 'pyproject.toml'}", f"--data-file={ROOT / '.coverage'}", "-m"]


def process_results(process: subprocess.CompletedProcess[str]) -> Iterable[Result]:
    yield Result("process", "it ends well", last_line(process.stderr) if process.returncode else "")
    complaints = (line for line in process.stderr.splitlines() if any(words in line for words in COMPLAINTS))
    yield Result("process", "nothing is left open", next(complaints, ""))


def dependencies(cache: Path) -> Path:
    """Return the folder of dependencies for this Python, filled."""
    digest = hashlib.sha256("\n".join(DEPENDENCIES).encode()).hexdigest()[:8]
    return installed(cache / f"dependencies-{sys.implementation.cache_tag}-{digest}", DEPENDENCIES)


def installed(folder: Path, requirements: Sequence[str], *options: str) -> Path:
    """Return a folder with what pip installs there, at once where it has done so before."""
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        unfinished = tempfile.mkdtemp(prefix="unfinished-", dir=folder.parent)
        pip = [sys.executable, "-m", "pip", "install", "-qq", "--disable-pip-version-check", *options]
        try:
            process = subprocess.run([*pip, "--target", unfinished, *requirements], stderr=subprocess.PIPE, text=True)
            if process.returncode:
                raise NotInstalledError(last_line(process.stderr))
            with suppress(OSError):  # another run of this has been faster
                Path(unfinished).rename(folder)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def environment(folder: str, path: Sequence[Path]) -> dict[str, str]:
    """Return the surroundings of a line's process: nothing of the user's g4f, all files in one folder."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("G4F_", "PYTHON", "WEBSIM_"))}
    return {
        **kept,
        **dict.fromkeys(HOMES, folder),
        "G4F_CONFIG_DIR": str(Path(folder, "config")),
        "G4F_CACHE_DIR": str(Path(folder, "cache")),
        "PYTHONPATH": os.pathsep.join(map(str, path)),
        "PYTHONUTF8": "1",
    }


def last_line(text: str) -> str:
    return next((line for line in reversed(text.splitlines()) if line.strip()), "no word of why")


def barred(version: str, result: Result) -> int | None:
    """Return the index in BARRED of what bars a way, None where nothing does."""
    for index, bar in enumerate(BARRED):
        among = number(bar.first) <= number(version) <= number(bar.last)
        if among and any(fnmatch.fnmatchcase(f"{result.group}: {result.way}", way) for way in bar.ways):
            return index
    return None


def number(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def unexpected(version: str, result: Result) -> str:
    """Return what is wrong about a result, "" where it is as it should be."""
    bar = barred(version, result)
    if bar is None:
        return result.failure
    if not result.failure:
        return f"it works, though BARRED says: {BARRED[bar].why}"
    return "" if BARRED[bar].error in result.failure else result.failure


def cell(version: str, results: Sequence[Result]) -> str:
    """Return what the table says of a line's results in one column."""
    if not results:
        return "-"
    failed = sum(bool(unexpected(version, result)) for result in results)
    if failed:
        return f"{failed} of {len(results)} FAILED"
    bars = [bar for bar in (barred(version, result) for result in results) if bar is not None]
    if not bars:
        return "ok"
    return f"{len(results) - len(bars)}/{len(results)} {''.join(ascii_lowercase[bar] for bar in sorted(set(bars)))}"


def print_table(results: dict[str, list[Result]]) -> None:
    longest_first = sorted(results.values(), key=len, reverse=True)
    columns = list(dict.fromkeys(result.group for line in longest_first for result in line))
    rows = [["g4f", *columns]]
    for version, line in results.items():
        rows.append([version, *(cell(version, [each for each in line if each.group == column]) for column in columns)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())


def print_notes(results: dict[str, list[Result]]) -> None:
    """Print what the letters in the table stand for, and each failure."""
    everything = [(version, result) for version, line in results.items() for result in line]
    met = {barred(version, result) for version, result in everything}
    for index, bar in enumerate(BARRED):
        if index in met:
            lines = bar.first if bar.first == bar.last else f"{bar.first} to {bar.last}"
            print(f"{ascii_lowercase[index]}  barred by g4f {lines}: {bar.why}")
    for version, result in everything:
        failure = unexpected(version, result)
        if failure:
            print(f"FAILED  {version}  {result.group}: {result.way}: {failure}")


def default_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "g4f-websim" / "lines"


def main() -> int:
    parser = argparse.ArgumentParser("python -m tests.compat.lines", description="Go the ways into g4f, line by line.")
    parser.add_argument("versions", nargs="*", metavar="VERSION", help="releases (default: the last of each line)")
    parser.add_argument("--quick", action="store_true", help="only the lines at which something changed")
    parser.add_argument("--cache", type=Path, default=default_cache(), help="where to install (default: %(default)s)")
    options = parser.parse_args()
    versions = options.versions or (QUICK if options.quick else LINES)
    cache = options.cache.resolve()
    dependencies(cache)
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        results = dict(zip(versions, pool.map(partial(results_of, cache=cache), versions), strict=True))

    print(f"The ways into g4f, line by line, on Python {platform.python_version()}\n")
    print_table(results)
    print()
    print_notes(results)
    return print_sum([(version, result) for version, line in results.items() for result in line])


def print_sum(results: Sequence[tuple[str, Result]]) -> int:
    """Print how many results are of what kind, and return the exit status."""
    failed = sum(bool(unexpected(version, result)) for version, result in results)
    passed = sum(not result.failure and barred(version, result) is None for version, result in results)
    print(f"{len(results) - passed - failed} barred by g4f itself")
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
