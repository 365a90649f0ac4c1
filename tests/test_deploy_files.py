"""The files of the deployment agree with the settings, the documentation and each other."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from tests.live.deploy.documented import documented_commands

from palaver.cli.healthcheck import TIMEOUT
from palaver.config.loading import load_settings

ROOT = Path(__file__).parents[1]
DOCKER_STOP_SECONDS = 10.0
"""How long `docker stop` waits before it kills."""
MAX_EXPOSURE = 15
"""Tenths of the exposure level of `systemd-analyze security`, from 0 to 10; the unit has 1.4."""


def read(path: str) -> str:
    return (ROOT / path).read_text("utf-8")


def test_a_container_ends_before_docker_kills_it() -> None:
    settings = load_settings(ROOT / "docker/palaver.toml", {}, ())
    assert settings.server.drain < settings.server.grace < DOCKER_STOP_SECONDS


def test_docker_waits_longer_for_the_health_check_than_it_takes() -> None:
    waits = re.search(r"HEALTHCHECK .*--timeout=(\d+)s", read("docker/Dockerfile"))
    assert waits is not None
    assert float(waits[1]) > TIMEOUT


def test_the_only_trusted_proxy_of_the_image_is_caddy() -> None:
    settings = load_settings(ROOT / "docker/palaver.toml", {}, ())
    addresses = re.findall(r"ipv4_address: ([\d.]+)", read("docker/compose.yaml"))
    assert list(settings.connections.trusted_proxies) == addresses


def test_compose_and_the_image_have_the_secrets_of_make_secrets() -> None:
    made = set(re.findall(r"^make (\S+)", read("docker/make-secrets"), re.MULTILINE))
    compose = read("docker/compose.yaml")
    assert set(re.findall(r"\{file: secrets/(\S+)\}", compose)) == made
    used = set(re.findall(r"/run/secrets/([\w-]+)", compose + read("docker/palaver.toml")))
    assert used == made


def test_a_machine_gets_its_packages_as_the_image_does() -> None:
    commands = documented_commands("virtual-machine.md")
    installing = [command for command in commands if "pip install" in command]
    assert len(installing) == 2
    for command in installing:
        assert command.removeprefix("sudo ") in read("docker/Dockerfile")


def test_the_service_names_the_secrets_of_its_settings() -> None:
    service = read("config/palaver.service")
    given = re.findall(r"^LoadCredential=(\S+):/etc/palaver/secrets/\1$", service, re.MULTILINE)
    folder = "file:/run/credentials/palaver.service/"
    used = re.findall(rf'"{folder}(\S+)"', read("config/virtual-machine.toml"))
    assert sorted(given) == sorted(used)


def test_systemd_waits_longer_than_the_server_takes_to_stop() -> None:
    settings = load_settings(ROOT / "config/virtual-machine.toml", {}, ())
    waits = re.search(r"^TimeoutStopSec=(\d+)$", read("config/palaver.service"), re.MULTILINE)
    assert waits is not None
    assert settings.server.grace < float(waits[1])


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not installed")
def test_systemd_accepts_the_service_and_finds_it_protected(tmp_path: Path) -> None:
    unit = tmp_path / "palaver.service"
    # The program is not installed where the unit has it.
    unit.write_text(read("config/palaver.service").replace("/opt/palaver/bin/palaver", "/bin/true"))
    for options in (["verify"], ["security", "--offline=true", f"--threshold={MAX_EXPOSURE}"]):
        done = subprocess.run(
            ["systemd-analyze", *options, str(unit)], check=False, capture_output=True, text=True
        )
        assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr


def test_the_engines_image_starts_vllm_as_documented() -> None:
    dockerfile = read("docker/Dockerfile.gpu")
    entrypoint = re.search(r"^ENTRYPOINT (\[.*?\])$", dockerfile, re.MULTILINE | re.DOTALL)
    documented = re.search(r"^    vllm serve MODEL .*?\n\n", read("docs/engines.md"), re.M | re.S)
    assert entrypoint is not None
    assert documented is not None
    words = re.findall(r'"((?:\\.|[^"\\])*)"', entrypoint[1])
    options = [word.replace('\\"', '"') for word in words]
    assert options == [
        word for word in shlex.split(documented[0].replace("\\\n", "")) if word != "MODEL"
    ]


def test_the_engines_image_is_the_pinned_vllm() -> None:
    base = re.search(r"^ARG BASE=vllm/vllm-openai:v(\S+)$", read("docker/Dockerfile.gpu"), re.M)
    assert base is not None
    assert f"vllm=={base[1]}" in read("requirements/vllm-gpu.txt").split()
