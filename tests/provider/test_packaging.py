"""The wheel and the sdist: their files, their metadata, and that the sdist builds and installs."""

import ast
import re
import sys
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

from g4f_websim import __version__
from tests.support.interpreter import run_python
from tests.support.paths import ROOT

PACKAGE = ROOT / "g4f_websim"
NAME = f"g4f_websim-{__version__}"

METADATA_FILES = {"METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE"}
# The files of the sdist other than the package and the tests. The build backend adds .gitignore and PKG-INFO.
SDIST_FILES = {"LICENSE", "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "pyproject.toml"}
BACKEND_FILES = {".gitignore", "PKG-INFO"}

RUNTIME_PACKAGES = {"aiohttp", "g4f"}
EXTRAS = {"aiohttp-socks;extra=='socks'", "tqdm;extra=='batch'"}


def files_in(folder: Path, *suffixes: str) -> set[str]:
    """Return the paths, relative to the root, of all files in a folder that have one of the suffixes."""
    return {path.relative_to(ROOT).as_posix() for path in folder.rglob("*") if path.suffix in suffixes}


PACKAGE_FILES = files_in(PACKAGE, ".py", ".typed")
OTHER_FILES = files_in(ROOT / "tests", ".py", ".md") | files_in(ROOT / ".github", ".svg")


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


def files_of(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name.replace(f"{NAME}.dist-info/", ""): archive.read(name) for name in archive.namelist()}


def test_wheel_contains_package_only_and_fits_every_platform(wheel):
    assert wheel.name == f"{NAME}-py3-none-any.whl"
    files = files_of(wheel)
    assert files.keys() == PACKAGE_FILES | METADATA_FILES
    assert files["licenses/LICENSE"] == (ROOT / "LICENSE").read_bytes()


def test_sdist_contains_package_tests_and_documents_only(sdist):
    with tarfile.open(sdist) as archive:
        assert [member.name for member in archive if not member.isfile()] == []
        names = {member.name.removeprefix(f"{NAME}/") for member in archive}
    assert names == PACKAGE_FILES | OTHER_FILES | SDIST_FILES | BACKEND_FILES


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


def test_distributions_contain_nothing_about_the_machine(sdist, wheel):
    with tarfile.open(sdist) as archive:
        contents = files_of(wheel) | {f"sdist: {member.name}": archive.extractfile(member).read() for member in archive}
        owners = {(member.uid, member.gid, member.uname, member.gname) for member in archive}
    assert owners == {(0, 0, "", "")}
    # The home of a container's user may be "/".
    paths = [f"{path}/".encode() for path in (ROOT, Path.home()) if len(path.parts) > 2]
    assert [name for name, content in contents.items() if any(path in content for path in paths)] == []


def test_metadata_name_required_packages_this_python_and_the_readme(wheel):
    metadata = Parser().parsestr(files_of(wheel)["METADATA"].decode())
    required = [re.sub(r" |>=[^;]*", "", line) for line in metadata.get_all("Requires-Dist")]
    assert {package for package in required if "extra=='test'" not in package} == RUNTIME_PACKAGES | EXTRAS
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert f"Programming Language :: Python :: {version}" in metadata.get_all("Classifier")
    assert metadata.get_payload() == (ROOT / "README.md").read_text()


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
    further = {path: imported_packages(path) - RUNTIME_PACKAGES for path in PACKAGE.rglob("*.py")}
    # testing.py is imported only by test suites that use pytest.
    assert {path: packages for path, packages in further.items() if packages} == {PACKAGE / "testing.py": {"pytest"}}
