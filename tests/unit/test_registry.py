"""How the installed g4f gets to know Websim, and how it forgets it again; tests/compat asks the older lines."""

import subprocess
import sys

import g4f.Provider
import pytest
from g4f.client.service import convert_to_provider, get_model_and_provider

import g4f_websim
from g4f_websim import Websim, register, unregister


@pytest.fixture(autouse=True)
def registered_again():
    yield
    unregister()
    register()


def test_the_package_exports_four_names():
    assert set(g4f_websim.__all__) == {"Websim", "register", "unregister", "__version__"}


@pytest.mark.parametrize("name", ["Websim", "websim", "web-sim"])
def test_importing_registers_websim_by_name(name):
    assert convert_to_provider(name) is Websim


def test_websim_is_listed_once_wherever_g4f_lists_providers():
    assert g4f.Provider.Websim is Websim
    assert g4f.Provider.ProviderUtils.convert["Websim"] is Websim
    assert g4f.Provider.ProviderLoader.names.count("Websim") == 1
    assert g4f.Provider.__all__.count("Websim") == 1


def test_a_model_may_name_the_provider():
    assert get_model_and_provider("Websim:flux", None) == ("flux", Websim)


def test_a_list_of_names_may_have_websim_in_it():
    assert Websim in convert_to_provider("Websim Yqcloud").providers


def test_registering_again_changes_nothing():
    assert register() is Websim
    assert g4f.Provider.ProviderLoader.names.count("Websim") == 1
    unregister()
    assert "Websim" not in g4f.Provider.ProviderLoader.names


def test_unregistering_puts_back_what_was_there():
    unregister()
    loader = g4f.Provider.ProviderLoader
    before = (list(loader.names), dict(loader.loaded), list(g4f.Provider.__all__), list(sys.meta_path))
    register()
    register("Another-Name")
    register("Third_Name")
    assert convert_to_provider("anothername") is Websim
    assert convert_to_provider("thirdname") is Websim
    assert unregister() is Websim
    assert (list(loader.names), dict(loader.loaded), list(g4f.Provider.__all__), list(sys.meta_path)) == before


def test_unregistering_twice_is_as_once():
    unregister()
    assert unregister() is Websim
    assert "Websim" not in g4f.Provider.ProviderUtils.convert


def test_a_websim_that_g4f_ships_is_put_aside_and_put_back():
    class Shipped:
        pass

    unregister()
    g4f.Provider.ProviderLoader.loaded["Websim"] = Shipped
    register()
    assert convert_to_provider("Websim") is Websim
    unregister()
    assert g4f.Provider.ProviderLoader.loaded.pop("Websim") is Shipped


GUI_PROGRAM = """
import pathlib, g4f
file = pathlib.Path(g4f.__file__).parent / "providers.json"
before = file.read_bytes()
{imports}
def listed():
    return [entry for entry in Api.get_providers() if entry["name"] == "Websim"]
(entry,) = listed()
other = next(entry for entry in Api.get_providers() if entry["name"] != "Websim")
assert entry.keys() == other.keys(), entry.keys() ^ other.keys()
assert entry["image"] == 1 and entry["vision"] is True and entry["auth"] is False and entry["nodriver"] is False
assert file.read_bytes() == before
g4f_websim.unregister()
assert not listed()
"""


@pytest.mark.parametrize(
    "imports",
    [
        "import g4f_websim; from g4f.gui.server.api import Api",
        "from g4f.gui.server.api import Api; import g4f_websim",
        "import g4f_websim; g4f_websim.register('Other'); from g4f.gui.server.api import Api",
    ],
    ids=["before the GUI", "after the GUI", "under two names"],
)
def test_the_gui_lists_websim_once_and_its_file_stays_as_it_is(imports):
    subprocess.run([sys.executable, "-c", GUI_PROGRAM.format(imports=imports)], check=True)
