"""Run scenarios.py on the last release of each g4f release line: `python -m tests.compat.lines --help`.

Each release is installed without its dependencies into a folder of its own in the cache. One more folder contains the
dependencies of all of them.
"""

from __future__ import annotations

import argparse
import fnmatch
import hashlib
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

from tests.support.paths import ROOT

# The last release of each line. A comment says what a line changed for a provider.
LINES = (
    "0.4.9.9",  # the first with a Websim provider of its own, which the lists of g4f.models contain too
    "0.5.0.4",
    "0.5.1.6",  # images are saved in generated_media instead of generated_images
    "0.5.2.9",
    "0.5.3.2",  # the last with format_image_prompt and get_create_function
    "0.5.4.6",  # the first with format_media_prompt and create_function
    "0.5.5.7",  # the last that lists its own Websim
    "0.5.6.6",  # the first with its own Websim in not_working; images.generate finds a client's provider by name
    "0.5.7.6", "0.5.8.4", "0.5.9.0", "0.6.0.3", "0.6.1.6", "0.6.2.9", "0.6.3.7", "0.6.4.3",
    "6.0.5", "6.5.7",
    "6.6.7",  # the last with its own Websim in not_working
    "6.7.5", "6.8.9", "6.9.10",
    "7.0.10",  # nest_asyncio2 instead of nest_asyncio
    "7.1.9", "7.2.5", "7.3.9", "7.4.7", "7.5.9",
    "7.6.6",  # the last with lists of providers made at import
    "7.7.7",  # lazy: __map_paths__
    "7.8.12",  # lazy: _provider_names and _loaded_providers
    "7.9.6", "8.0.9",
    "8.1.8",  # some providers can only be listed with a list from the network
    "8.2.9",  # the last with _provider_names
    "8.3.7",  # lazy: ProviderLoader
    "8.4.9",  # a list of providers skips a provider for a minute after three failures
    "8.5.9",  # a model name may contain its provider
    "8.6.9",
    "8.7.7",  # the list of providers in the GUI is a file
    "8.8.6",  # g4f checks with a provider whether a key is its own
)  # fmt: skip

# The lines at which something changed that matters to this package.
QUICK = ("0.4.9.9", "0.5.3.2", "0.5.5.7", "7.6.6", "7.7.7", "7.8.12", "8.2.9", "8.3.7", "8.8.6")


class Unsupported(NamedTuple):
    """Scenarios that some release lines of g4f do not support, whatever the provider does.

    Attributes:
        releases: the first and the last release that do not support them, or the only one.
        scenarios: patterns of `group: name`.
        error: the beginning of the expected error.
        reason: why g4f does not support them.
    """

    releases: str
    scenarios: tuple[str, ...]
    error: str
    reason: str


UNSUPPORTED: tuple[Unsupported, ...] = (
    Unsupported(
        "0.4.9.9 to 0.5.5.7",
        ("images: image with provider, of client, *, by name, *",),
        "ValueError: Provider str does not support image generation",
        "images.generate finds a provider by name only if the call names it, not if the client was created with it",
    ),
    Unsupported(
        "0.5.1.6",
        ("variations: *",),
        "ValueError: not enough values to unpack",
        "create_variation unpacks the image as if it were a pair",
    ),
    Unsupported(
        "0.5.2.9 to 0.5.4.6",
        ("variations: variation, *",),
        "ProviderNotFoundError: Provider not found: url",
        "create_variation passes its response_format as the provider",
    ),
    Unsupported(
        "0.5.5.7",
        ("variations: variation, *", "variations: saved variation, *"),
        "TypeError: Images.async_create_variation() takes 1 positional argument",
        "create_variation passes keyword-only arguments by position",
    ),
    Unsupported(
        "0.4.9.9 to 8.4.9",
        ("chat: model with provider prefix",),
        "ModelNotFoundError: Model not found: Websim:flux",
        "a model name cannot contain its provider",
    ),
    Unsupported(
        "8.4.9",
        ("registry: is listed once in gui",),
        "NameError: name 'Provider' is not defined",
        "the GUI uses a name that it does not import",
    ),
    Unsupported(
        "0.4.9.9 to 7.7.7",
        ("fixes: is found by, *:optimize_request",),
        "AssertionError: applied: []",
        "g4f sends messages and tools as they are",
    ),
    Unsupported(
        "0.4.9.9 to 0.5.5.7",
        ("fixes: is found by, g4f.cli.client:*", "fixes: client saves *"),
        "",
        "g4f has no client on the command line",
    ),
    Unsupported(
        "0.5.6.6 to 0.5.7.6",
        ("fixes: is found by, g4f.cli.client:*", "fixes: client saves *"),
        "ModuleNotFoundError: No module named 'markitdown'",
        "the client on the command line needs an optional package",
    ),
)
if sys.version_info < (3, 12):
    UNSUPPORTED += (
        Unsupported(
            "0.5.8.4",
            ("fixes: is found by, g4f.api:*", "fixes: repeated messages *"),
            "PydanticUserError: Please use `typing_extensions.TypedDict`",
            "the API server cannot be imported before Python 3.12",
        ),
    )

# What all releases need. g4f 0.5.9 to 7.0 do not declare typing_extensions, which aiohttp installs only on Python 3.12
# and earlier.
DEPENDENCIES = (
    "a2wsgi",
    "aiohttp>=3.13.4",
    "brotli",
    "coverage>=7.10",
    "fastapi",
    "flask[async]",
    "nest_asyncio",
    "nest_asyncio2",
    "pycryptodome",
    "python-multipart",
    "requests",
    "typing_extensions",
    "uvicorn",
)

# How many releases are tested at the same time, and how long the installation and the scenarios of one may take.
PARALLEL_RELEASES = 2
SECONDS_TO_INSTALL = 900
SECONDS_FOR_RELEASE = 300

# What asyncio and aiohttp print on stderr about resources that were left open.
WARNINGS = ("Unclosed", "Event loop is closed", "was never retrieved", "was never awaited")

# The variables that name the folders of the user's own files.
HOME_VARIABLES = (
    *("HOME", "USERPROFILE", "APPDATA", "LOCALAPPDATA"),
    *("XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME"),
)


class Result(NamedTuple):
    """The result of one scenario on one release.

    Attributes:
        version: the release of g4f.
        group: the group of the scenario.
        scenario: the name of the scenario.
        error: the error, or an empty string if the scenario passed.
    """

    version: str
    group: str
    scenario: str
    error: str

    @property
    def unsupported(self) -> Unsupported | None:
        """The entry of UNSUPPORTED for the scenario, or None if the release must support it."""
        name = f"{self.group}: {self.scenario}"
        for entry in UNSUPPORTED:
            first, _, last = entry.releases.partition(" to ")
            in_range = parse(first) <= parse(self.version) <= parse(last or first)
            if in_range and any(fnmatch.fnmatchcase(name, pattern) for pattern in entry.scenarios):
                return entry
        return None

    @property
    def failure(self) -> str:
        """Why the result is a failure, or an empty string if it is as expected."""
        entry = self.unsupported
        if entry is None:
            return self.error
        if not self.error:
            return f"passed, but UNSUPPORTED says: {entry.reason}"
        return "" if self.error.startswith(entry.error) else self.error


def parse(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


# Running the scenarios


def run_release(version: str, cache: Path) -> list[Result]:
    """Install a release of g4f, unless the cache contains it, and run the scenarios on it."""
    print(f"g4f {version} ...", file=sys.stderr)
    try:
        release = install(cache / f"g4f-{version}", [f"g4f=={version}"], "--no-deps")
    except subprocess.SubprocessError as error:
        return [Result(version, "process", "is installed by pip", str(error))]
    with tempfile.TemporaryDirectory(prefix="g4f-websim-lines-") as folder:
        try:
            process = subprocess.run(
                # Without the site-packages of this Python, which may contain another g4f.
                [sys.executable, "-s", "-S", "-m", *coverage_command(), "tests.compat.scenarios"],
                cwd=folder,
                env=environment(folder, [ROOT, release, install_dependencies(cache)]),
                capture_output=True,
                text=True,
                timeout=SECONDS_FOR_RELEASE,
            )
        except subprocess.TimeoutExpired:
            return [Result(version, "process", "ends in time", f"not within {SECONDS_FOR_RELEASE} s")]
    error = last_line(process.stderr) if process.returncode else ""
    warning = next(filter(has_warning, process.stderr.splitlines()), "")
    return [
        *(Result(version, **json.loads(line)) for line in process.stdout.splitlines()),
        Result(version, "process", "exits with status 0", error),
        Result(version, "process", "leaves nothing open", warning),
    ]


def coverage_command() -> list[str]:
    """Return the words that measure the coverage of a module, if the coverage of this process is measured."""
    if "COVERAGE_PROCESS_CONFIG" not in os.environ:
        return []
    data_file = Path(os.environ.get("COVERAGE_FILE") or ROOT / ".coverage").absolute()
    return ["coverage", "run", f"--rcfile={ROOT / 'pyproject.toml'}", f"--data-file={data_file}", "-m"]


def environment(folder: str, path: Sequence[Path]) -> dict[str, str]:
    """Return the environment of a process that imports from `path`, and has no files but those in `folder`."""
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith(("G4F_", "PYTHON", "WEBSIM_"))
    }
    return {
        **inherited,
        **dict.fromkeys(HOME_VARIABLES, folder),
        "G4F_CONFIG_DIR": str(Path(folder, "config")),
        "G4F_CACHE_DIR": str(Path(folder, "cache")),
        "PYTHONPATH": os.pathsep.join(map(str, path)),
        "PYTHONUTF8": "1",
    }


def has_warning(line: str) -> bool:
    return any(warning in line for warning in WARNINGS)


def last_line(text: str) -> str:
    return next((line for line in reversed(text.splitlines()) if line.strip()), "no message")


# Installing


def install_dependencies(cache: Path) -> Path:
    """Install the dependencies for this Python, unless the cache contains them, and return their folder."""
    digest = hashlib.sha256("\n".join(DEPENDENCIES).encode()).hexdigest()[:8]
    return install(cache / f"dependencies-{sys.implementation.cache_tag}-{digest}", DEPENDENCIES)


def install(folder: Path, requirements: Sequence[str], *options: str) -> Path:
    """Install packages into a folder, unless it exists, and return the folder.

    Raises:
        SubprocessError: pip failed, and printed why, or took too long. The folder does not exist.
    """
    if folder.exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    pip = [sys.executable, "-m", "pip", "install", "-qq", "--disable-pip-version-check", *options]
    with tempfile.TemporaryDirectory(prefix="unfinished-", dir=folder.parent) as temporary:
        pip += ["--target", temporary, *requirements]
        subprocess.run(pip, check=True, timeout=SECONDS_TO_INSTALL)
        with suppress(OSError):  # another run of this program has created the folder in the meantime
            Path(temporary).rename(folder)
    return folder


# Printing the results


def summary(results: Sequence[Result]) -> str:
    """Return how many scenarios passed, failed, and are not supported by g4f."""
    failed = sum(bool(result.failure) for result in results)
    passed = sum(not result.error and result.unsupported is None for result in results)
    return f"{passed} passed, {failed} failed, {len(results) - passed - failed} not supported by g4f"


def report(results: Sequence[Result]) -> int:
    """Print a line for each release, what g4f does not support, and each failure, and return the exit status."""
    versions = dict.fromkeys(result.version for result in results)
    for version in versions:
        print(f"g4f {version:8} {summary([result for result in results if result.version == version])}")
    entries = [result.unsupported for result in results if result.unsupported]
    for entry in dict.fromkeys(entries):
        print(f"not supported by g4f {entry.releases}: {entry.reason}")
    failed = [result for result in results if result.failure]
    for result in failed:
        print(f"FAILED  {result.version}  {result.group}: {result.scenario}: {result.failure}")
    print(f"{len(versions)} releases: {summary(results)}")
    return 1 if failed else 0


# The program


def main() -> int:
    """Run the scenarios on the chosen releases, print the results and return the exit status."""
    parser = argparse.ArgumentParser("python -m tests.compat.lines", description="Test all release lines of g4f.")
    parser.add_argument("versions", nargs="*", metavar="VERSION", help="releases (default: the last of each line)")
    parser.add_argument("--quick", action="store_true", help="test only the lines at which something changed")
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "g4f-websim" / "lines"
    parser.add_argument("--cache", type=Path, default=default, help="where to install (default: %(default)s)")
    options = parser.parse_args()
    versions = options.versions or (QUICK if options.quick else LINES)
    cache = options.cache.resolve()
    install_dependencies(cache)
    with ThreadPoolExecutor(PARALLEL_RELEASES) as pool:
        results = [result for release in pool.map(partial(run_release, cache=cache), versions) for result in release]
    print(f"Websim on the release lines of g4f, Python {platform.python_version()}\n")
    return report(results)


if __name__ == "__main__":
    sys.exit(main())
