"""The wheel and the sdist: their files, their metadata, and that the sdist builds and installs."""

import ast
import configparser
import sys
import tarfile
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest

from g4f_websim import __version__
from tests.support.interpreter import run_python
from tests.support.paths import ROOT

PACKAGE = ROOT / "g4f_websim"
NAME = f"g4f_websim-{__version__}"
DIST_INFO = f"{NAME}.dist-info"

METADATA_FILES = {"METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE"}
# The files of the sdist other than the package and the tests. The build backend adds .gitignore and PKG-INFO.
SDIST_FILES = {"LICENSE", "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "pyproject.toml"}
BACKEND_FILES = {".gitignore", "PKG-INFO"}

PYTHON_VERSIONS = ("3.11", "3.12", "3.13", "3.14", "3.15")

RUNTIME_PACKAGES = {"aiohttp", "g4f"}
# testing.py is imported only by test suites that use pytest.
FURTHER_IMPORTS = {"testing.py": {"pytest"}}


def files_in(folder: Path, *suffixes: str) -> set[str]:
    """Return the paths, relative to the root, of all files in a folder that have one of the suffixes."""
    return {path.relative_to(ROOT).as_posix() for path in folder.rglob("*") if path.suffix in suffixes}


PACKAGE_FILES = files_in(PACKAGE, ".py", ".typed")
TEST_FILES = files_in(ROOT / "tests", ".py", ".md")
IMAGES = files_in(ROOT / ".github", ".svg")


def build(source: Path, folder: Path, target: str) -> Path:
    """Build a distribution with hatchling itself, because `python -m build` would download hatchling."""
    run_python("-m", "hatchling", "build", "--target", target, "--directory", str(folder), folder=source)
    (distribution,) = folder.iterdir()
    return distribution


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    return build(ROOT, tmp_path_factory.mktemp("wheel"), "wheel")


@pytest.fixture(scope="module")
def sdist(tmp_path_factory) -> Path:
    return build(ROOT, tmp_path_factory.mktemp("sdist"), "sdist")


@pytest.fixture(scope="module")
def metadata(wheel) -> Message:
    return Parser().parsestr(read_from_wheel(wheel, "METADATA").decode())


def read_from_wheel(wheel: Path, name: str) -> bytes:
    with zipfile.ZipFile(wheel) as archive:
        return archive.read(f"{DIST_INFO}/{name}")


# Files


def test_wheel_contains_package_only(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert names == PACKAGE_FILES | {f"{DIST_INFO}/{name}" for name in METADATA_FILES}


def test_wheel_fits_every_platform(wheel):
    assert wheel.name == f"{NAME}-py3-none-any.whl"


def test_sdist_contains_package_tests_and_documents_only(sdist):
    with tarfile.open(sdist) as archive:
        assert [member.name for member in archive if not member.isfile()] == []
        names = {member.name.removeprefix(f"{NAME}/") for member in archive}
    assert names == PACKAGE_FILES | TEST_FILES | IMAGES | SDIST_FILES | BACKEND_FILES
    assert {"g4f_websim/emulator/server.py", "tests/README.md"} <= names


def test_sdist_builds_identical_wheel(sdist, wheel, tmp_path):
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path / "source", filter="data")
    rebuilt = build(tmp_path / "source" / NAME, tmp_path / "wheel", "wheel")
    assert rebuilt.read_bytes() == wheel.read_bytes()


def test_sdist_installs(sdist, tmp_path):
    target = tmp_path / "target"
    options = ["--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--target", str(target)]
    run_python("-m", "pip", "install", *options, str(sdist))
    program = "import g4f_websim; print(g4f_websim.__file__, g4f_websim.__version__)"
    printed, _ = run_python("-c", program, PYTHONPATH=str(target))
    assert printed.split() == [str(target / "g4f_websim" / "__init__.py"), __version__]


def test_distributions_contain_nothing_about_the_machine(sdist, wheel):
    with zipfile.ZipFile(wheel) as archive:
        contents = {f"wheel: {name}": archive.read(name) for name in archive.namelist()}
    with tarfile.open(sdist) as archive:
        contents |= {f"sdist: {member.name}": archive.extractfile(member).read() for member in archive}
        owners = {(member.uid, member.gid, member.uname, member.gname) for member in archive}
    assert owners == {(0, 0, "", "")}
    # The home of a container's user may be "/".
    paths = [f"{path}/".encode() for path in (ROOT, Path.home()) if len(path.parts) > 2]
    assert [name for name, content in contents.items() if any(path in content for path in paths)] == []


# Metadata


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("Name", ["g4f-websim"]),
        ("Version", [__version__]),
        ("License-Expression", ["MIT"]),
        ("License-File", ["LICENSE"]),
        ("Requires-Python", [">=3.11"]),
        ("Provides-Extra", ["batch", "socks", "test"]),
        ("Description-Content-Type", ["text/markdown"]),
    ],
    ids=lambda value: value if isinstance(value, str) else ", ".join(value),
)
def test_metadata_contains_field(metadata, field, values):
    assert metadata.get_all(field) == values


def test_classifiers_name_supported_python_versions(metadata):
    prefix = "Programming Language :: Python :: "
    versions = [line.removeprefix(prefix) for line in metadata.get_all("Classifier") if line.startswith(prefix)]
    assert versions == ["3", *PYTHON_VERSIONS]
    assert f"{sys.version_info.major}.{sys.version_info.minor}" in versions


def test_classifiers_say_typed(metadata):
    assert "Typing :: Typed" in metadata.get_all("Classifier")


def test_runtime_dependencies_are_aiohttp_and_g4f(metadata):
    requirements = [line for line in metadata.get_all("Requires-Dist") if "extra ==" not in line]
    assert {line.split(">=")[0] for line in requirements} == RUNTIME_PACKAGES


@pytest.mark.parametrize(("extra", "package"), [("socks", "aiohttp-socks"), ("batch", "tqdm")])
def test_extra_is_one_package(metadata, extra, package):
    requirements = [line for line in metadata.get_all("Requires-Dist") if f"extra == '{extra}'" in line]
    assert [line.split(";")[0].strip() for line in requirements] == [package]


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_module_imports_runtime_dependencies_only(path):
    imported = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            imported.add(node.module.partition(".")[0])
    assert imported - sys.stdlib_module_names <= RUNTIME_PACKAGES | FURTHER_IMPORTS.get(path.name, set())


def test_description_is_readme(metadata):
    assert metadata.get_payload() == (ROOT / "README.md").read_text()


def test_wheel_contains_license(wheel):
    assert read_from_wheel(wheel, "licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()


def test_command_is_only_entry_point(wheel):
    entry_points = configparser.ConfigParser()
    entry_points.read_string(read_from_wheel(wheel, "entry_points.txt").decode())
    assert {section: dict(entry_points[section]) for section in entry_points.sections()} == {
        "console_scripts": {"g4f-websim": "g4f_websim.command.main:main"}
    }
