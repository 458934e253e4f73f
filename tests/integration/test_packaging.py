"""What is handed to the world: the wheel and the sdist hold what they should and nothing else, and say the truth."""

import ast
import configparser
import subprocess
import sys
import tarfile
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest

from g4f_websim import __version__
from tests.support.paths import ROOT

PACKAGE = ROOT / "g4f_websim"
NAME = f"g4f_websim-{__version__}"
DIST_INFO = f"{NAME}.dist-info"

MODULES = {path.relative_to(ROOT).as_posix() for path in PACKAGE.rglob("*.py")}
METADATA_FILES = {"METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE"}
SDIST_FILES = {"CHANGELOG.md", "LICENSE", "README.md", "PKG-INFO", "pyproject.toml", ".gitignore"}

# testing.py is for test suites, which have pytest.
MAY_IMPORT = {"aiohttp", "g4f", *sys.stdlib_module_names}
MAY_IMPORT_BESIDES = {"testing.py": {"pytest"}}


def build(source: Path, folder: Path, target: str) -> Path:
    """Build with the backend itself, which needs no network, and return the file made."""
    command = [sys.executable, "-m", "hatchling", "build", "--target", target, "--directory", str(folder)]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    (made,) = folder.iterdir()
    return made


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    return build(ROOT, tmp_path_factory.mktemp("wheel"), "wheel")


@pytest.fixture(scope="module")
def sdist(tmp_path_factory) -> Path:
    return build(ROOT, tmp_path_factory.mktemp("sdist"), "sdist")


def names_in_wheel(wheel: Path) -> set[str]:
    return set(zipfile.ZipFile(wheel).namelist())


def names_in_sdist(sdist: Path) -> set[str]:
    with tarfile.open(sdist) as archive:
        assert all(member.isfile() for member in archive)
        return {member.name.removeprefix(f"{NAME}/") for member in archive}


@pytest.fixture(scope="module")
def metadata(wheel) -> Message:
    return Parser().parsestr(zipfile.ZipFile(wheel).read(f"{DIST_INFO}/METADATA").decode())


def test_the_wheel_holds_the_package_and_what_is_said_of_it_and_nothing_else(wheel):
    expected = MODULES | {"g4f_websim/py.typed"} | {f"{DIST_INFO}/{name}" for name in METADATA_FILES}
    assert names_in_wheel(wheel) == expected


def test_the_wheel_is_for_every_machine(wheel):
    assert wheel.name == f"{NAME}-py3-none-any.whl"


def test_the_sdist_holds_the_package_its_tests_and_its_papers_and_nothing_else(sdist):
    tests = {path.relative_to(ROOT).as_posix() for path in (ROOT / "tests").rglob("*.py")}
    assert names_in_sdist(sdist) == MODULES | {"g4f_websim/py.typed"} | tests | SDIST_FILES


def test_the_sdist_makes_the_same_wheel(sdist, wheel, tmp_path):
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path / "source", filter="data")
    again = build(tmp_path / "source" / NAME, tmp_path / "wheel", "wheel")
    assert again.read_bytes() == wheel.read_bytes()


def test_neither_tells_of_the_machine_that_made_it(sdist, wheel):
    with zipfile.ZipFile(wheel) as files:
        texts = [files.read(name) for name in files.namelist()]
    with tarfile.open(sdist) as archive:
        texts += [archive.extractfile(member).read() for member in archive]
        assert {(member.uid, member.gid, member.uname, member.gname) for member in archive} == {(0, 0, "", "")}
    assert not [text for text in texts if str(ROOT).encode() in text or str(Path.home()).encode() in text]


def test_at_run_time_aiohttp_and_g4f_are_needed_and_nothing_else(metadata):
    needed = [line for line in metadata.get_all("Requires-Dist") if "extra ==" not in line]
    assert [line.split(">=")[0] for line in needed] == ["aiohttp", "g4f"]


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.name)
def test_a_module_imports_nothing_else(path):
    imported = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            imported.add(node.module.partition(".")[0])
    assert imported <= MAY_IMPORT | MAY_IMPORT_BESIDES.get(path.name, set())


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("Name", ["g4f-websim"]),
        ("Version", [__version__]),
        ("License-Expression", ["MIT"]),
        ("License-File", ["LICENSE"]),
        ("Requires-Python", [">=3.10"]),
        ("Provides-Extra", ["socks", "test"]),
        ("Description-Content-Type", ["text/markdown"]),
    ],
)
def test_the_metadata_says(metadata, field, values):
    assert metadata.get_all(field) == values


def test_the_description_is_the_readme(metadata):
    assert metadata.get_payload() == (ROOT / "README.md").read_text()


def test_the_license_is_in_the_wheel(wheel):
    assert zipfile.ZipFile(wheel).read(f"{DIST_INFO}/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()


def test_the_wheel_brings_the_command_and_no_other(wheel):
    entry_points = configparser.ConfigParser()
    entry_points.read_string(zipfile.ZipFile(wheel).read(f"{DIST_INFO}/entry_points.txt").decode())
    assert {section: dict(entry_points[section]) for section in entry_points.sections()} == {
        "console_scripts": {"g4f-websim": "g4f_websim.cli:main"}
    }
