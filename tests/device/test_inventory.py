from pathlib import Path

import pytest

from compress.device.inventory import find_devices, read_inventory
from compress.device.transport import LocalTransport, SshTransport
from compress.errors import ConfigError


@pytest.fixture
def inventory(tmp_path) -> Path:
    path = tmp_path / "devices.yaml"
    path.write_text(
        "kitchen: {host: pi@192.168.1.20, target: raspberry_pi_4}\n"
        "nano: {host: 'nvidia@nano:2222', identity: ~/.ssh/bench}\n"
        "here: {host: local}\n"
    )
    return path


def test_names_stand_for_boards(inventory):
    found = find_devices(["kitchen", "nano", "here", "me@other"], inventory=inventory, target="raspberry_pi_4")
    assert found["kitchen"] == SshTransport("pi@192.168.1.20")
    assert found["nano"] == SshTransport("nvidia@nano:2222", Path("~/.ssh/bench").expanduser())
    assert found["here"] == LocalTransport("here")
    assert found["me@other"] == SshTransport("me@other")


def test_a_board_of_another_target_is_refused(inventory):
    with pytest.raises(ConfigError, match=r"for jetson_nano, and the inventory says that kitchen is a raspberry_pi_4"):
        find_devices(["kitchen"], inventory=inventory, target="jetson_nano")


def test_the_inventory_of_the_working_folder_is_found(inventory, monkeypatch):
    monkeypatch.chdir(inventory.parent)
    assert find_devices(["kitchen"], inventory=None, target=None) == {"kitchen": SshTransport("pi@192.168.1.20")}


def test_an_address_is_never_looked_up(inventory, monkeypatch):
    inventory.write_text(
        "me@other: {host: trap, ssh_config: evil}\nother:22: {host: trap}\nplain: {host: pi@192.168.1.20}\n"
    )
    monkeypatch.chdir(inventory.parent)
    for named in (None, inventory):
        found = find_devices(["me@other", "other:22"], inventory=named, target=None)
        assert found == {"me@other": SshTransport("me@other"), "other:22": SshTransport("other:22")}


@pytest.mark.parametrize("key", ["ssh_config", "identity"])
def test_an_inventory_nobody_named_brings_no_ssh_settings(inventory, monkeypatch, key):
    inventory.write_text(f"nano: {{host: nvidia@nano, {key}: here}}\nplain: {{host: pi@plain}}\n")
    monkeypatch.chdir(inventory.parent)
    with pytest.raises(ConfigError, match=rf"'nano' a file for SSH \({key}\).*device.inventory=devices.yaml"):
        find_devices(["nano"], inventory=None, target=None)
    assert find_devices(["plain"], inventory=None, target=None) == {"plain": SshTransport("pi@plain")}
    assert find_devices(["nano"], inventory=inventory, target=None)["nano"].host == "nvidia@nano"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: {hots: x}", "a.host: Field required"),
        ("a: {host: x, password: y}", "unknown key 'a.password'"),
        ("a: [1]", "write name: {host: user@host}"),
        ("a: {", "is not YAML"),
        ("\udcff", "is not YAML: 'utf-8' codec"),
        ("[" * 5000, "is not YAML: maximum recursion depth"),
    ],
    ids=["key", "option", "list", "open", "bytes", "deep"],
)
def test_a_wrong_inventory_is_explained(tmp_path, text, message):
    (tmp_path / "devices.yaml").write_text(text, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(ConfigError, match=message):
        read_inventory(tmp_path / "devices.yaml")


def test_a_missing_inventory_is_named(tmp_path):
    with pytest.raises(ConfigError, match="cannot read the inventory"):
        find_devices(["a"], inventory=tmp_path / "no.yaml", target=None)
