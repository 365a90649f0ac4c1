"""Reverse proxies with the examples in config/, before servers of a test."""

import asyncio
import contextlib
import shutil
import subprocess
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

import pytest
from tests.live.deploy.docker_daemon import PREPARED, ROOT
from tests.ports import free_port

START_SECONDS = 30.0


def find_program(name: str) -> str:
    """Return the path of a program; skip the test where it is missing."""
    folders = ":".join(str(PREPARED / "programs" / folder) for folder in ("usr/sbin", "usr/bin"))
    path = shutil.which(name) or shutil.which(name, path=folders)
    if path is None:
        pytest.skip(f"{name} is not installed, and scripts/install-deploy has not downloaded it")
    return path


def adapt(example: str, replacements: Mapping[str, str]) -> str:
    """Return an example of config/ with other addresses and paths."""
    text = (ROOT / "config" / example).read_text("utf-8")
    for old, new in replacements.items():
        assert old in text, f"config/{example} has no {old!r}"
        text = text.replace(old, new)
    return text


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """Make a certificate for loopback and return its path and that of its key."""
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    subprocess.run(
        [
            "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1",
            "-subj", "/CN=127.0.0.1", "-keyout", str(key), "-out", str(certificate),
        ],
        check=True, capture_output=True,
    )  # fmt: skip
    return certificate, key


@contextlib.asynccontextmanager
async def running(
    command: Sequence[str], port: int, log: Path, environment: Mapping[str, str]
) -> AsyncIterator[None]:
    """Run a program that listens on ``port``."""
    with log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            *command, stdout=output, stderr=output, env=environment
        )
    try:
        async with asyncio.timeout(START_SECONDS):
            while not await accepts(port):
                assert process.returncode is None, await asyncio.to_thread(log.read_text)
                await asyncio.sleep(0.02)
        yield
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def accepts(port: int) -> bool:
    with contextlib.suppress(OSError):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.close()
        return True
    return False


@contextlib.asynccontextmanager
async def nginx(folder: Path, upstreams: Sequence[str]) -> AsyncIterator[str]:
    """Run nginx as in config/nginx.conf before two servers; yield its URL."""
    port = free_port()
    certificate, key = await asyncio.to_thread(make_certificate, folder)
    domain = "/etc/letsencrypt/live/chat.example.org"
    example = adapt(
        "nginx.conf",
        {
            "listen 443 ssl": f"listen 127.0.0.1:{port} ssl",
            "127.0.0.1:7252": upstreams[0],
            "127.0.0.1:7253": upstreams[1],
            f"{domain}/fullchain.pem": str(certificate),
            f"{domain}/privkey.pem": str(key),
        },
    )
    temporary = "".join(
        f"{kind}_temp_path {folder}/{kind};\n"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    file = folder / "nginx.conf"
    file.write_text(
        f"daemon off;\npid {folder}/pid;\nerror_log stderr;\nevents {{}}\n"
        f"http {{\naccess_log off;\n{temporary}{example}}}\n"
    )
    command = [find_program("nginx"), "-c", str(file), "-p", str(folder), "-e", "stderr"]
    async with running(command, port, folder / "log", {}):
        yield f"https://127.0.0.1:{port}"


@contextlib.asynccontextmanager
async def caddy(folder: Path, upstreams: Sequence[str]) -> AsyncIterator[str]:
    """Run Caddy with config/Caddyfile before servers; yield its URL."""
    port = free_port()
    variables = {
        "PALAVER_SITE": f":{port}",
        "PALAVER_UPSTREAMS": " ".join(upstreams),
        "HOME": str(folder),
    }
    options = ["--config", str(ROOT / "config/Caddyfile"), "--adapter", "caddyfile"]
    command = [find_program("caddy"), "run", *options]
    async with running(command, port, folder / "log", variables):
        yield f"http://127.0.0.1:{port}"
