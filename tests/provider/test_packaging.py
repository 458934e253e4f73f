"""The wheel and the sdist: their files, their metadata, and that the sdist builds and installs."""

import ast
import sys
import tarfile
import tomllib
import zipfile
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

RUNTIME_PACKAGES = {"aiohttp", "g4f"}
# The modules that may import further packages: testing.py is imported only by test suites that use pytest.
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
def in_wheel(wheel) -> dict[str, bytes]:
    """The files of the wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_wheel_contains_package_only_and_fits_every_platform(wheel, in_wheel):
    assert wheel.name == f"{NAME}-py3-none-any.whl"
    assert set(in_wheel) == PACKAGE_FILES | {f"{DIST_INFO}/{name}" for name in METADATA_FILES}
    assert in_wheel[f"{DIST_INFO}/licenses/LICENSE"] == (ROOT / "LICENSE").read_bytes()


def test_sdist_contains_package_tests_and_documents_only(sdist):
    with tarfile.open(sdist) as archive:
        assert [member.name for member in archive if not member.isfile()] == []
        names = {member.name.removeprefix(f"{NAME}/") for member in archive}
    assert names == PACKAGE_FILES | TEST_FILES | IMAGES | SDIST_FILES | BACKEND_FILES


def test_sdist_builds_identical_wheel_that_installs(sdist, wheel, tmp_path):
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path / "source", filter="data")
    rebuilt = build(tmp_path / "source" / NAME, tmp_path / "wheel", "wheel")
    assert rebuilt.read_bytes() == wheel.read_bytes()
    target = tmp_path / "target"
    run_python("-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(target), str(rebuilt))
    program = "import g4f_websim; print(g4f_websim.__file__, g4f_websim.__version__)"
    printed, _ = run_python("-c", program, PYTHONPATH=str(target))
    assert printed.split() == [str(target / "g4f_websim" / "__init__.py"), __version__]


def test_distributions_contain_nothing_about_the_machine(sdist, in_wheel):
    with tarfile.open(sdist) as archive:
        contents = in_wheel | {f"sdist: {member.name}": archive.extractfile(member).read() for member in archive}
        owners = {(member.uid, member.gid, member.uname, member.gname) for member in archive}
    assert owners == {(0, 0, "", "")}
    # The home of a container's user may be "/".
    paths = [f"{path}/".encode() for path in (ROOT, Path.home()) if len(path.parts) > 2]
    assert [name for name, content in contents.items() if any(path in content for path in paths)] == []


def test_requires_runtime_packages_only(in_wheel):
    metadata = Parser().parsestr(in_wheel[f"{DIST_INFO}/METADATA"].decode())
    lines = [line.partition(";") for line in metadata.get_all("Requires-Dist")]
    required = {"": set(), "extra == 'socks'": set(), "extra == 'batch'": set()}
    for package, _, condition in lines:
        if condition.strip() in required:
            required[condition.strip()].add(package.strip().split(">=")[0])
    assert list(required.values()) == [RUNTIME_PACKAGES, {"aiohttp-socks"}, {"tqdm"}]
    assert metadata.get_payload() == (ROOT / "README.md").read_text()


def test_classifiers_name_this_python():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert (
        f"Programming Language :: Python :: {sys.version_info.major}.{sys.version_info.minor}" in project["classifiers"]
    )


def imported_packages(path: Path) -> set[str]:
    """Return the packages outside of the standard library that a module imports anywhere."""
    imported = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            imported.add(node.module.partition(".")[0])
    return imported - sys.stdlib_module_names


def test_modules_import_runtime_dependencies_only():
    imports = {path.relative_to(PACKAGE).as_posix(): imported_packages(path) for path in PACKAGE.rglob("*.py")}
    further = {name: packages - RUNTIME_PACKAGES for name, packages in imports.items() if packages - RUNTIME_PACKAGES}
    assert further == FURTHER_IMPORTS
