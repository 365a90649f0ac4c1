"""A Docker daemon of the tests' own, with images that stand for those of a registry."""

import contextlib
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PREPARED = ROOT / ".venv-deploy"
"""What `scripts/install-deploy` has made."""
COMPOSE = PREPARED / "programs/usr/libexec/docker/cli-plugins/docker-compose"
BRIDGE = Path("/sys/class/net/docker0")
START_SECONDS = 30.0
COMMAND_SECONDS = 400.0
MIN_MEMORY_KIB = 10_000_000
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
REDIS = """
FROM services
RUN install --directory --owner 999 --mode 0700 /data
VOLUME /data
"""
CADDY = """
FROM services
RUN setcap cap_net_bind_service=+ep /usr/bin/caddy
ENV XDG_DATA_HOME=/data
VOLUME /data
CMD ["caddy", "run", "--config", "/etc/caddy/Caddyfile", "--adapter", "caddyfile"]
"""
"""Like the official images in their users, volumes and capabilities."""


def find_obstacle() -> str:
    """Return why no Docker daemon can run here; empty when one can."""
    if os.geteuid() != 0:
        return "only root may start a Docker daemon"
    if not shutil.which("dockerd"):
        return "dockerd is not installed"
    if not (PREPARED / "images/services.tar").exists():
        return "scripts/install-deploy has made no base images"
    if BRIDGE.exists():
        return "another Docker daemon has the bridge docker0"
    separate = subprocess.run(["unshare", "--mount", "--net", "true"], check=False)
    return "the kernel gives no namespaces" if separate.returncode else ""


class DockerDaemon:
    """A running daemon, with its files in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        programs = folder / "programs"
        programs.mkdir()
        # Of the same package as the daemon: others on the path may be too new or incomplete.
        docker = shutil.which("docker", path=f"/usr/bin:{os.environ['PATH']}")
        (programs / "docker").symlink_to(docker or "docker")
        plugins = folder / "config/cli-plugins"
        plugins.mkdir(parents=True)
        (plugins / "docker-compose").symlink_to(COMPOSE)
        self.environment = {
            **os.environ,
            "PATH": f"{programs}:{os.environ['PATH']}",
            "DOCKER_HOST": f"unix://{folder}/socket",
            "DOCKER_CONFIG": str(folder / "config"),
            "DOCKER_FLAGS": "--network host",  # the index of packages may be reachable there only
        }

    def docker(self, *arguments: str, text: str = "") -> str:
        """Return what ``docker ARGUMENTS`` prints."""
        return self._run(["docker", *arguments], ROOT, text)

    def shell(self, command: str, folder: Path) -> str:
        """Return what a command of the documentation prints in ``folder``."""
        return self._run(["bash", "-euc", command], folder)

    def _run(self, command: list[str], folder: Path, text: str = "") -> str:
        done = subprocess.run(
            command, env=self.environment, cwd=folder, input=text, check=False,
            capture_output=True, text=True, timeout=COMMAND_SECONDS,
        )  # fmt: skip
        assert done.returncode == 0, f"{command}: {done.stdout[-4000:]}{done.stderr[-4000:]}"
        return done.stdout.strip()

    def is_ready(self) -> bool:
        done = subprocess.run(
            ["docker", "version"], env=self.environment, check=False, capture_output=True
        )
        return done.returncode == 0

    def make_images(self) -> None:
        """Make the images that the Dockerfile and compose.yaml name."""
        variables = f"ENV PIP_CERT={CERTIFICATES} SSL_CERT_FILE={CERTIFICATES}"
        images = PREPARED / "images"
        self.docker("import", "--change", variables, str(images / "python.tar"), "python:3.12-slim")
        self.docker("import", str(images / "services.tar"), "services")
        for name, dockerfile in {"redis:7.2-bookworm": REDIS, "caddy:2": CADDY}.items():
            self.docker("build", "--quiet", "--tag", name, "-", text=dockerfile)


@contextlib.contextmanager
def folder_of_daemon() -> Iterator[Path]:
    """Make a folder whose path is short, for the socket: in memory, which is much faster for
    thousands of small files, if there is enough."""
    folder = Path(tempfile.mkdtemp(prefix="palaver-docker-"))
    available = re.search(r"MemAvailable: +(\d+)", Path("/proc/meminfo").read_text())
    in_memory = available is not None and int(available[1]) > MIN_MEMORY_KIB
    if in_memory:
        mount = ["mount", "-t", "tmpfs", "-o", f"size={MIN_MEMORY_KIB // 2}k", "tmpfs", str(folder)]
        subprocess.run(mount, check=True)
    try:
        yield folder
    finally:
        if in_memory:
            subprocess.run(["umount", "--recursive", str(folder)], check=True)
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def docker_daemon() -> Iterator[DockerDaemon]:
    """Run a daemon; skip the test where none can run."""
    if obstacle := find_obstacle():
        pytest.skip(obstacle)
    with folder_of_daemon() as folder:
        yield from run_daemon(folder)


def run_daemon(folder: Path) -> Iterator[DockerDaemon]:
    """Run a daemon while the caller uses it."""
    daemon = DockerDaemon(folder)
    log = folder / "log"
    options = {"data-root": "data", "exec-root": "exec", "pidfile": "pid"}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                "dockerd",
                *(f"--{option}={folder / name}" for option, name in options.items()),
                f"--host={daemon.environment['DOCKER_HOST']}",
            ],
            stdout=output, stderr=output,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + START_SECONDS
        while not daemon.is_ready():
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.skip(f"dockerd does not run here: {log.read_text()[-300:]!r}")
        yield daemon
    finally:
        process.terminate()
        process.wait(timeout=60)
        subprocess.run(["ip", "link", "delete", "docker0"], check=False, capture_output=True)
