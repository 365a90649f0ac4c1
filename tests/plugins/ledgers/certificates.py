"""Certificates for a test, files with openssl."""

import asyncio
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest


class Certificate(NamedTuple):
    """Files of a certificate and its key."""

    certificate: Path
    key: Path


class CertificateAuthority:
    """Certificate authority."""

    def __init__(self, folder: Path, own: Certificate) -> None:
        self.own = own
        self._folder = folder

    async def issue(self, name: str, *, address: str = "127.0.0.1") -> Certificate:
        """Return a certificate for ``address``."""
        files = _files(self._folder, name)
        await _openssl(
            files,
            *("-CA", str(self.own.certificate), "-CAkey", str(self.own.key)),
            *("-addext", f"subjectAltName=IP:{address}", "-addext", "basicConstraints=CA:FALSE"),
        )
        return files


async def make_authority(folder: Path, name: str = "authority") -> CertificateAuthority:
    own = _files(folder, name)
    await _openssl(own)
    return CertificateAuthority(folder, own)


def _files(folder: Path, name: str) -> Certificate:
    return Certificate(folder / f"{name}.pem", folder / f"{name}-key.pem")


async def _openssl(files: Certificate, *options: str) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    making = await asyncio.create_subprocess_exec(
        *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
        *("-nodes", "-subj", f"/CN={files.certificate.stem}", *options),
        *("-keyout", str(files.key), "-out", str(files.certificate)),
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert await making.wait() == 0
