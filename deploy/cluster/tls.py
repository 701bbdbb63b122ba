"""A self-signed certificate for trying HTTPS on loopback, made by the openssl command."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from deploy.cluster.errors import ClusterError

VALID_DAYS = 30


def make_certificate(directory: Path) -> Path:
    """A new certificate for localhost and 127.0.0.1 with its key in one PEM file, readable by the owner alone."""
    openssl = shutil.which("openssl")
    if not openssl:
        raise ClusterError("missing: openssl, to make a self-signed certificate")
    directory.mkdir(parents=True, exist_ok=True)
    certificate, key, both = (directory / name for name in ("certificate.pem", "key.pem", "haproxy.pem"))
    command = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-sha256", "-nodes", "-days", str(VALID_DAYS)]
    command += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    command += ["-keyout", str(key), "-out", str(certificate)]
    made = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if made.returncode != 0:
        raise ClusterError(f"openssl made no certificate:\n{made.stderr}")
    with os.fdopen(os.open(both, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as pem:
        pem.write(certificate.read_text() + key.read_text())
    key.unlink()
    return both
