"""The image, docker/compose.yaml and the services of a virtual machine, in a Docker daemon of the
tests' own: one module, because no two daemons fit on one machine."""

import asyncio
import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from tests.live.deploy.docker_daemon import COMPOSE, ROOT, DockerDaemon, docker_daemon
from tests.live.deploy.documented import documented_commands
from tests.live.deploy.replies import WAIT_SECONDS, check_takeover, write_counting
from tests.live.serve_processes import count_running_turns
from tests.ports import free_port
from tests.server.web.live_server import eventually

from palaver.messages import new_id

pytestmark = [pytest.mark.live, pytest.mark.docker]

MAX_ADDED_BYTES = 450_000_000
RESTRICTIONS = (
    "--read-only", "--tmpfs=/tmp", "--cap-drop=ALL", "--security-opt=no-new-privileges",
    "--pids-limit=256", "--memory=1g",
)  # fmt: skip

WITH_PLUGIN = {
    '["data:/data"]': '["data:/data", "../plugin:/plugin:ro"]',
    "PALAVER__LEDGER__USE: redis": "PALAVER__LEDGER__USE: redis\n    PYTHONPATH: /plugin",
}
IMAGE = "make image"
SECRETS = "docker/make-secrets"
COMPOSE_FILE = "docker compose --file docker/compose.yaml"
UP = f"{COMPOSE_FILE} up --detach --wait"
UP_REPLICAS = f"{COMPOSE_FILE} --profile replicas up --detach --wait"
HEALTH = f"{COMPOSE_FILE} exec palaver palaver healthcheck"
ADD_DOCUMENT = (
    f'{COMPOSE_FILE} run --rm --no-deps --volume "$PWD/docs:/documents:ro" palaver '
    "knowledge add /documents/example-handbook.md"
)
DOWN = f"{COMPOSE_FILE} --profile replicas down"


def test_the_page_about_containers_has_the_commands_that_run_here() -> None:
    commands = [IMAGE, SECRETS, UP, HEALTH, ADD_DOCUMENT, UP_REPLICAS, DOWN]
    assert documented_commands("container.md") == commands


@pytest.fixture(scope="module")
def daemon() -> Iterator[DockerDaemon]:
    """Run a daemon that has the image."""
    with docker_daemon() as daemon:
        daemon.make_images()
        daemon.shell(IMAGE, ROOT)
        yield daemon


# The image


def test_the_image_is_small_and_says_what_it_is(daemon: DockerDaemon) -> None:
    images = ("palaver:latest", "python:3.12-slim")
    image, base = json.loads(daemon.docker("image", "inspect", *images))
    assert image["Size"] - base["Size"] <= MAX_ADDED_BYTES
    config = image["Config"]
    assert config["User"] == "7252:7252"
    assert config["StopSignal"] == "SIGTERM"
    assert config["Healthcheck"]["Test"] == ["CMD", "palaver", "healthcheck"]
    assert set(config["Volumes"]) == {"/data"}
    version = daemon.docker("run", "--rm", "palaver", "--version")
    labels = {key.removeprefix("org.opencontainers.image."): value
              for key, value in config["Labels"].items()}  # fmt: skip
    assert version == f"palaver {labels['version']}"
    assert (labels["title"], labels["licenses"]) == ("Palaver", "Apache-2.0")
    assert len(labels["revision"]) == 40


def test_the_image_has_no_tools_to_build_with(daemon: DockerDaemon) -> None:
    search = "for tool in gcc cc ld make uv pip git; do command -v $tool; done; true"
    assert daemon.docker("run", "--rm", "--entrypoint=sh", "palaver", "-c", search) == ""
    packages = "import importlib.metadata as m; print(*(d.name for d in m.distributions()))"
    names = daemon.docker("run", "--rm", "--entrypoint=python", "palaver", "-c", packages).split()
    assert "palaver-server" in names
    assert not {"hatchling", "uv", "pip", "setuptools"} & set(names)


def test_without_its_secrets_a_container_says_so_and_exits(daemon: DockerDaemon) -> None:
    done = subprocess.run(
        ["docker", "run", "--rm", "palaver"], env=daemon.environment, check=False,
        capture_output=True, text=True, timeout=WAIT_SECONDS,
    )  # fmt: skip
    assert done.returncode == 78, done
    for name in ("page-key", "operations-key", "cookie-secret"):
        assert f"/run/secrets/{name}: No such file" in done.stderr


class Container:
    """A running container of a server."""

    def __init__(self, daemon: DockerDaemon, name: str, operations_key: str = "") -> None:
        self.name = name
        self._operations_key = operations_key
        self._daemon = daemon
        self._pids = [int(pid) for pid in daemon.docker("top", name, "-eo", "pid").split()[1:]]
        [networks] = self.inspect()["NetworkSettings"]["Networks"].values()
        self.address = f"http://{networks['IPAddress']}:7252/"

    def inspect(self) -> dict[str, Any]:  # Any: JSON values
        [state] = json.loads(self._daemon.docker("inspect", self.name))
        return dict(state)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the processes in the container."""
        for pid in self._pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    async def kill(self) -> None:
        """Let the container crash."""
        self.signal(signal.SIGKILL)

    async def running_turn_count(self) -> int:
        return await count_running_turns(self.address, self._operations_key)

    def run(self, *command: str) -> str:
        return self._daemon.docker("exec", self.name, *command)

    def try_to_run(self, *command: str) -> str:
        """Return what a command prints, also when it fails."""
        return self.run("sh", "-c", f"{shlex.join(command)} || true")

    def stop(self) -> int:
        """Stop the container with ``docker stop``; return its exit code, 137 if it was killed."""
        self._daemon.docker("stop", self.name)
        return int(self.inspect()["State"]["ExitCode"])


async def ask(
    address: str, key: str, text: str, host: str | None = None
) -> dict[str, Any]:  # Any: JSON values
    """Return the reply to the only message of a new conversation; ``host`` is another name of the
    server than that in ``address``."""
    headers = {"Authorization": f"Bearer {key}"} | ({"Host": host} if host else {})
    url = f"{address}v1/conversations/{new_id()}/messages?wait=true"
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.post(url, json={"text": text}, ssl=False, server_hostname=host) as response,
    ):
        assert response.status == 200, await response.text()
        return dict(await response.json())


@pytest.fixture(scope="module")
def clone(daemon: DockerDaemon, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy what a clone has that the commands of the page read, and make the secrets."""
    folder: Path = tmp_path_factory.mktemp("clone")
    for name in ("docker", "config", "docs"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("secrets"))
    write_counting(folder / "plugin")
    compose = folder / "docker/compose.yaml"
    text = compose.read_text()
    for old, new in WITH_PLUGIN.items():
        assert old in text
        text = text.replace(old, new)
    compose.write_text(text)
    printed = daemon.shell(SECRETS, folder)
    assert printed.endswith(secret(folder, "page-key"))
    assert daemon.shell(SECRETS, folder) == printed  # what exists stays
    return folder


def secret(clone: Path, name: str) -> str:
    return (clone / "docker/secrets" / name).read_text()


@pytest.fixture
def container(daemon: DockerDaemon, clone: Path) -> Iterator[Container]:
    """Run one server without rights, on SQLite."""
    mounts = [
        f"--volume={clone}/docker/secrets/{name}:/run/secrets/{name}:ro"
        for name in ("page-key", "operations-key", "cookie-secret")
    ]
    arguments = ("--detach", "--name=single", *RESTRICTIONS, *mounts, "--volume=single:/data")
    daemon.docker("run", *arguments, "palaver")
    yield Container(daemon, "single")
    daemon.docker("rm", "--force", "--volumes", "single")


async def test_a_container_without_rights_answers_and_stops_gracefully(
    container: Container, clone: Path
) -> None:
    await eventually(lambda: container.try_to_run("palaver", "healthcheck").endswith("is ready"))
    reply = await ask(container.address, secret(clone, "page-key"), "Are you a robot or real?")
    assert (reply["outcome"], reply["skill"]) == ("done", "chat")
    assert container.run("palaver", "healthcheck") == "http://127.0.0.1:7252 is ready"
    status = dict(line.split(":\t") for line in container.run("cat", "/proc/1/status").splitlines())
    assert status["Uid"].split() == ["7252"] * 4
    assert {int(status[name], 16) for name in ("CapPrm", "CapEff", "CapBnd")} == {0}
    assert status["NoNewPrivs"] == "1"
    assert (
        container.run("sh", "-c", "touch /etc/x /opt/palaver/x 2>&1 || true").count("Read-only")
        == 2
    )
    assert container.stop() == 0


# Compose


@pytest.fixture(scope="module")
def stack(daemon: DockerDaemon, clone: Path) -> Iterator[DockerDaemon]:
    """Start what compose.yaml starts without a profile."""
    if not COMPOSE.exists():
        pytest.skip("scripts/install-deploy has not downloaded Docker Compose")
    daemon.environment |= {"PALAVER_PORT": str(free_port()), "PALAVER_PROXY_PORT": str(free_port())}
    try:
        daemon.shell(UP, clone)
        yield daemon
    finally:
        daemon.shell(f"{DOWN} --volumes --timeout 1", clone)


def local(daemon: DockerDaemon, variable: str) -> str:
    return f"http://127.0.0.1:{daemon.environment[variable]}/"


async def test_compose_serves_the_page_and_answers_from_documents(
    stack: DockerDaemon, clone: Path
) -> None:
    address = local(stack, "PALAVER_PORT")
    async with aiohttp.ClientSession() as session, session.get(address) as response:
        assert (response.status, response.content_type) == (200, "text/html")
    assert stack.shell(HEALTH, clone) == "http://127.0.0.1:7252 is ready"
    stack.shell(ADD_DOCUMENT, clone)
    question = "How many days of holiday does each employee get?"
    reply = await ask(address, secret(clone, "page-key"), question)
    assert (reply["skill"], "28 days" in reply["text"]) == ("qa", True)


def test_every_container_of_compose_is_restricted(stack: DockerDaemon) -> None:
    for name in ("palaver-palaver-1", "palaver-redis-1"):
        host = Container(stack, name).inspect()["HostConfig"]
        assert host["ReadonlyRootfs"]
        assert host["CapDrop"] == ["ALL"]
        assert host["SecurityOpt"] == ["no-new-privileges:true"]
        assert host["Memory"] > 0
        assert host["PidsLimit"] > 0


def test_no_secret_is_in_a_file_or_an_environment(stack: DockerDaemon, clone: Path) -> None:
    seen = stack.docker("inspect", "palaver-palaver-1", "palaver-redis-1")
    seen += (clone / "docker/compose.yaml").read_text()
    for path in (clone / "docker/secrets").iterdir():
        assert path.read_text() not in seen


async def test_a_reply_through_caddy_goes_on_when_its_server_is_killed(
    stack: DockerDaemon, clone: Path
) -> None:
    await asyncio.to_thread(stack.shell, UP_REPLICAS, clone)
    operations = secret(clone, "operations-key")
    servers = [
        Container(stack, f"palaver-{name}-1", operations) for name in ("palaver", "palaver-2")
    ]
    first, second = servers
    address = local(stack, "PALAVER_PROXY_PORT")
    killed = await check_takeover(address, (first, second), secret(clone, "page-key"))
    [other] = [server for server in servers if server is not killed]
    assert await asyncio.to_thread(other.stop) == 0


# A virtual machine

START_SYSTEMD = "mount --make-rshared / && exec /lib/systemd/systemd"
"""As on a machine: the credentials of a service are mounts that reach its namespace."""
MACHINE = """
FROM services
COPY --from=palaver:latest /opt/palaver /opt/palaver
"""
DOMAIN = "chat.example.org"
IN_IMAGE = ("python3 -m venv", "pip install")
"""Commands that the build of the image has run: see tests/test_deploy_files.py."""


@pytest.fixture
def machine(daemon: DockerDaemon, clone: Path) -> Iterator[Container]:
    """Run systemd with the packages of the page, and a clone of the project."""
    daemon.docker("build", "--quiet", "--tag", "machine", "-", text=MACHINE)
    capabilities = ("SYS_ADMIN", "NET_ADMIN", "SYS_PTRACE", "DAC_READ_SEARCH")
    daemon.docker(
        "run", "--detach", "--name=machine",
        *(f"--cap-add={name}" for name in capabilities),
        "--security-opt=seccomp=unconfined", "--security-opt=apparmor=unconfined",
        "--tmpfs=/run", "--tmpfs=/tmp", "--cgroupns=host", "--volume=/sys/fs/cgroup:/sys/fs/cgroup",
        "--env=container=docker", f"--volume={clone}:/clone", "--workdir=/clone",
        "machine", "sh", "-c", START_SYSTEMD,
    )  # fmt: skip
    yield Container(daemon, "machine")
    daemon.docker("rm", "--force", "--volumes", "machine")


def status_of(machine: Container, *properties: str) -> str:
    names = [f"--property={name}" for name in properties]
    return machine.run("systemctl", "show", "palaver", *names, "--value")


async def test_the_services_of_a_machine_run_as_the_page_says(machine: Container) -> None:
    def is_ready() -> bool:
        return machine.try_to_run("bash", "-ec", healthcheck).endswith("is ready")

    *installing, healthcheck, add_document = [
        command.replace(DOMAIN, "localhost")
        for command in documented_commands("virtual-machine.md")
        if not any(word in command for word in IN_IMAGE)
    ]
    await eventually(lambda: machine.try_to_run("systemctl", "is-system-running") == "running")
    for command in installing:
        machine.run("bash", "-ec", command)
    await eventually(is_ready)
    machine.run("bash", "-ec", add_document)
    key = machine.run("cat", "/etc/palaver/secrets/page-key")
    address = machine.address.replace("http://", "https://").replace(":7252", "")
    question = "How many days of holiday does each employee get?"
    reply = await ask(address, key, question, host="localhost")
    assert (reply["skill"], "28 days" in reply["text"]) == ("qa", True)
    machine.run("systemctl", "kill", "--signal=KILL", "palaver")
    await eventually(lambda: status_of(machine, "NRestarts") == "1")
    await eventually(is_ready)
    machine.run("systemctl", "stop", "palaver")
    assert status_of(machine, "Result", "ExecMainStatus").split() == ["success", "0"]
