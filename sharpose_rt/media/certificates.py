"""Whose certificates are trusted where an address is encrypted: `source.tls` for FFmpeg and for Python."""

from __future__ import annotations

import os
import socket
import ssl
from pathlib import Path
from urllib.parse import SplitResult

from sharpose_rt.errors import SourceError
from sharpose_rt.machine.paths import expanded

PORTS = {"https": 443, "rtsps": 322, "rtmps": 443}
"""Schemes whose servers show a certificate, and the port of an address that gives none."""
# FFmpeg in PyAV's wheels knows Fedora's place alone, and Python the one that it was built for.
_STORES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem")


def ffmpeg_options(tls: str) -> dict[str, str]:
    """What has FFmpeg verify, or not, who answers; by itself it verifies nobody.

    Raises:
        SourceError: the file holds no certificates, or there is none of authorities.
    """
    if tls == "any":
        return {"tls_verify": "0"}
    context(tls)  # a file that is none is said here; FFmpeg would trust nobody, and not say why
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
            f"source.tls is {tls!r}, and {file} is no file of certificates ({why}); 'verify', 'any' or a PEM file is "
            "accepted, which has -----BEGIN CERTIFICATE----- in it"
        ) from None
    if tls == "any":
        made.check_hostname, made.verify_mode = False, ssl.CERT_NONE
    return made


def distrust(parts: SplitResult, tls: str, timeout_s: float) -> str | None:
    """Why the certificate that an address shows is not trusted; None where it is, or where none can be had."""
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
    """The file of the certificates that are trusted; None where whoever verifies has them, or nobody does."""
    if tls == "any" or (tls == "verify" and os.name == "nt"):  # Windows' store is known to both
        return None
    if tls != "verify":
        return str(expanded(tls))
    for file in (ssl.get_default_verify_paths().cafile, *_STORES):
        if file and Path(file).is_file():
            return file
    try:
        import certifi  # which comes with requests
    except ImportError:
        raise SourceError(
            "no certificates of authorities were found on this machine, so that nobody can be verified; install "
            "ca-certificates (or certifi), or name a file of them by --tls FILE"
        ) from None
    return certifi.where()
