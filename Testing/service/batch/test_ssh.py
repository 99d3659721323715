"""A cluster over SSH as `Resources/Docs/scale.md` shows it, on an SSH server of the test's own."""

import getpass
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import pytest
from service.small_site import tree

WAIT_S = 60
FOLDERS = f"{os.environ['PATH']}:/usr/sbin"
PROGRAMS = [shutil.which(name, path=FOLDERS) for name in ("sshd", "ssh-keygen")]
PAGE = Path(__file__).parents[3] / "Resources" / "Docs" / "scale.md"
PRIVILEGES = Path("/run/sshd")
"""Folder that Debian's sshd needs when root starts it."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("asyncssh") is None, reason="the extra cluster"),
    pytest.mark.skipif(None in PROGRAMS, reason="OpenSSH's server is not installed"),
]

CONF = """\
ListenAddress 127.0.0.1
Port {port}
HostKey {folder}/host
AuthorizedKeysFile {folder}/user.pub
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
PermitRootLogin prohibit-password
SetEnv SPATIAL_AR_ANOMALY_HOME={folder}/settings OMP_NUM_THREADS=1
"""


@pytest.fixture
def ssh(tmp_path):
    """How to connect to an SSH server that runs as long as the test: arguments of asyncssh."""
    server, keygen = PROGRAMS
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    for key in ("host", "user"):
        command = [keygen, "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / key)]
        subprocess.run(command, check=True, timeout=WAIT_S)
    (tmp_path / "sshd_config").write_text(CONF.format(port=port, folder=tmp_path))
    made = os.geteuid() == 0 and not PRIVILEGES.exists()
    if made:
        PRIVILEGES.mkdir(mode=0o755)
    with (tmp_path / "sshd.log").open("wb") as log:
        daemon = subprocess.Popen(
            [server, "-D", "-e", "-f", str(tmp_path / "sshd_config")], stderr=log
        )
    try:
        end = time.monotonic() + WAIT_S
        while not answers(port):
            log_text = (tmp_path / "sshd.log").read_text()
            assert daemon.poll() is None, log_text
            assert time.monotonic() < end, log_text
            time.sleep(0.05)
        yield {
            "port": port, "username": getpass.getuser(), "client_keys": [str(tmp_path / "user")],
            "known_hosts": None, "agent_path": None, "config": [],
        }  # fmt: skip
    finally:
        daemon.terminate()
        daemon.wait(WAIT_S)
        if made:
            PRIVILEGES.rmdir()


def answers(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1) as connection:
        return connection.recv(4) == b"SSH-"
    return False


def documented_script() -> str:
    """The script of the section on SSH."""
    return re.search(r"### Over SSH\n.*?```python\n(.*?)```", PAGE.read_text(), re.DOTALL)[1]


def detect(*arguments: object, folder: Path) -> None:
    environment = os.environ | {
        "SPATIAL_AR_ANOMALY_HOME": str(folder / "settings"),
        "OMP_NUM_THREADS": "1",
    }
    main = "from SpatialARAnomalyLib.service.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", main, "detect", *map(str, arguments), "--device", "cpu"],
        env=environment, capture_output=True, text=True, timeout=4 * WAIT_S,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def results(folder: Path) -> dict:
    """The results without the times."""
    found = tree(folder)
    del found["status.csv"], found[".lock"]
    for name in found:
        if name.endswith("run.json"):
            found[name] = json.loads(found[name])
            del found[name]["finished"], found[name]["seconds"]
    return found


def test_a_cluster_over_ssh_writes_the_results_of_this_process(ssh, site, tmp_path):
    script = documented_script()
    for told, ours in {
        '["head", "node1", "node2"]': f'["127.0.0.1"] * 3, connect_options={ssh!r}',
        '"port": 8786': '"port": 0, "host": "127.0.0.1", "dashboard": False',
        '"/opt/anomaly/bin/python"': repr(sys.executable),
    }.items():
        assert script.count(told) == 1
        script = script.replace(told, ours)
    for number, scan in enumerate(site.normals):
        (tmp_path / "in" / str(number)).mkdir(parents=True)
        shutil.copy(scan, tmp_path / "in" / str(number) / "scan.nii.gz")
    arguments = (tmp_path / "in", "--model", site.model, "--out")
    detect(*arguments, tmp_path / "serial", folder=tmp_path)
    cluster = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with cluster:
        try:
            address = re.search(r"tcp://\S+", cluster.stdout.readline())[0]
            detect(*arguments, tmp_path / "ssh", "--scheduler", address, folder=tmp_path)
            cluster.communicate("\n", timeout=WAIT_S)
        finally:
            cluster.kill()
    assert results(tmp_path / "ssh") == results(tmp_path / "serial")
    with pytest.raises(ConnectionRefusedError):  # nothing is left of the cluster
        socket.create_connection(("127.0.0.1", int(address.rsplit(":", 1)[1])), 1)
