import itertools
from pathlib import Path

import pytest
import yaml

from compress.core.errors import ConfigError
from compress.device.inventory import find_devices, read_inventory
from compress.device.transport import LocalTransport, SshTransport


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
        ("\udcff", "cannot read the inventory .*: it is not UTF-8 text"),
        ("[" * 5000, "is not YAML: exceeded maximum nesting depth|nested more than 32 deep"),
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


def test_an_inventory_has_a_largest_size(tmp_path):
    path = tmp_path / "devices.yaml"
    path.write_bytes(b"kitchen: {host: pi@192.168.1.20}\n" + b"#" * (1 << 20))
    with pytest.raises(ConfigError, match=r"cannot read the inventory .*larger than 1 MiB"):
        read_inventory(path)


@pytest.mark.parametrize("host", ["pi@board\n", "board:22\n", "board:٢٢", "board:222222", "-oProxyCommand=x", "a b"])
def test_a_host_is_one_whole_name(tmp_path, host):
    with pytest.raises(ConfigError, match="is not a device"):
        SshTransport(host)
    path = tmp_path / "devices.yaml"
    path.write_text(yaml.safe_dump({"kitchen": {"host": host}}))
    with pytest.raises(ConfigError, match="is not a device"):
        find_devices(["kitchen"], inventory=path, target=None)


def test_a_dead_connection_ends_after_three_questions(tmp_path):
    (tmp_path / "config").write_text("ServerAliveCountMax 1000\nServerAliveInterval 1000\n")
    command = SshTransport("pi@board:2222", config=tmp_path / "config")._command("true")
    options = [value for flag, value in itertools.pairwise(command) if flag == "-o"]
    assert {"ServerAliveInterval=5", "ServerAliveCountMax=3", "ConnectTimeout=15"} <= set(options)
    assert command[-3:] == ["--", "board", "true"]
