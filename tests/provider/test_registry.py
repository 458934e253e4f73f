"""Registration with the installed g4f; tests/compat covers the older release lines."""

import sys

import g4f.Provider
import pytest
from g4f.client.service import convert_to_provider

import g4f_websim
from g4f_websim import Websim, register, unregister
from tests.support.interpreter import run_python


@pytest.fixture(autouse=True)
def register_again():
    yield
    unregister()
    register()


def registered():
    """Return all of g4f that registration changes."""
    loader = g4f.Provider.ProviderLoader
    return list(loader.names), dict(loader.loaded), list(g4f.Provider.__all__), list(sys.meta_path)


def test_package_exports_five_names():
    assert set(g4f_websim.__all__) == {"Websim", "WebsimError", "register", "unregister", "__version__"}


def test_import_registers_websim_under_each_form_of_its_name():
    assert {convert_to_provider(name) for name in ("Websim", "websim", "web-sim")} == {Websim}
    assert Websim in convert_to_provider("Websim Yqcloud").providers


def test_registering_twice_changes_nothing():
    before = registered()
    assert register() is Websim
    assert registered() == before


def test_unregistering_restores_g4f_and_its_own_websim():
    unregister()
    builtin = g4f.Provider.ProviderLoader.loaded["Websim"] = object()
    before = registered()
    for name in ("Websim", "Another-Name", "Third_Name"):
        register(name)
    assert {convert_to_provider(name) for name in ("Websim", "anothername", "thirdname")} == {Websim}
    for _ in range(2):
        assert unregister() is Websim
        assert registered() == before
    assert g4f.Provider.ProviderLoader.loaded.pop("Websim") is builtin


GUI_PROGRAM = """
import pathlib, g4f
file = pathlib.Path(g4f.__file__).parent / "providers.json"
before = file.read_bytes()
{imports}
entries = Api.get_providers()
assert [entry["name"] for entry in entries].count("Websim") == 1
assert len({{frozenset(entry) for entry in entries}}) == 1, "all entries have the same fields"
assert file.read_bytes() == before
g4f_websim.unregister()
assert "Websim" not in [entry["name"] for entry in Api.get_providers()]
"""


@pytest.mark.parametrize(
    "imports",
    [
        "import g4f_websim; g4f_websim.register('Other'); from g4f.gui.server.api import Api",
        "from g4f.gui.server.api import Api; import g4f_websim",
    ],
    ids=["before the GUI", "after the GUI"],
)
def test_gui_lists_websim_once_and_leaves_file_unchanged(imports):
    run_python("-c", GUI_PROGRAM.format(imports=imports))
