"""Which certificates are trusted on encrypted connections: `source.tls` for FFmpeg and for Python."""

from __future__ import annotations

import os
import socket
import ssl
from pathlib import Path
from urllib.parse import SplitResult

from sharpose_rt.errors import SourceError
from sharpose_rt.machine.paths import expanded

PORTS = {"https": 443, "rtsps": 322, "rtmps": 443}
"""Schemes whose servers present a certificate, and their default ports."""
# FFmpeg in PyAV's wheels only knows Fedora's path, and Python the one that it was built for.
_STORES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem")


def ffmpeg_options(tls: str) -> dict[str, str]:
    """Options that make FFmpeg verify the server, or not; by default it does not.

    Raises:
        SourceError: the file contains no certificates, or no certificate authorities were found.
    """
    if tls == "any":
        return {"tls_verify": "0"}
    context(tls)  # reports a wrong file; FFmpeg would trust nobody without saying why
    file = _trusted(tls)
    return {"tls_verify": "1"} if file is None else {"tls_verify": "1", "ca_file": file}


def context(tls: str) -> ssl.SSLContext:
    """The same for Python's connections; raises as `ffmpeg_options` does."""
    file = _trusted(tls)
    try:
        made = ssl.create_default_context(cafile=file)
    except OSError as error:
        why = "none can be read from it" if isinstance(error, ssl.SSLError) else error.strerror
        raise SourceError(
            f"source.tls is {tls!r}, and {file} is not a file of certificates ({why}); 'verify', 'any' or a PEM "
            "file, which contains -----BEGIN CERTIFICATE-----, is accepted"
        ) from None
    if tls == "any":
        made.check_hostname, made.verify_mode = False, ssl.CERT_NONE
    return made


def distrust(parts: SplitResult, tls: str, timeout_s: float) -> str | None:
    """Why the certificate of a server is not trusted; None if it is, or if none can be obtained."""
    try:
        there = parts.hostname or "", parts.port or PORTS[parts.scheme.lower()]
        with (
            socket.create_connection(there, timeout_s) as plain,
            context(tls).wrap_socket(plain, server_hostname=parts.hostname),
        ):
            return None
    except ssl.SSLCertVerificationError as error:
        return error.verify_message.rstrip(".")
    except (OSError, ValueError):
        return None


def _trusted(tls: str) -> str | None:
    """The file of trusted certificates; None if the verifier has its own, or nothing is verified."""
    if tls == "any" or (tls == "verify" and os.name == "nt"):  # both know the store of Windows
        return None
    if tls != "verify":
        return str(expanded(tls))
    for file in (ssl.get_default_verify_paths().cafile, *_STORES):
        if file and Path(file).is_file():
            return file
    try:
        import certifi  # comes with requests
    except ImportError:
        raise SourceError(
            "no certificate authorities were found on this machine, so no server can be verified; install "
            "ca-certificates (or certifi), or give a file of them with --tls FILE"
        ) from None
    return certifi.where()
