"""Checks of PEM files: certificates and keys must be what a server or a client needs.

gRPC reports one error for every fault in such a file, so these checks run first and name the
fault. Expired dates and loose permissions are warnings only: the peers decide about them.
"""

from __future__ import annotations

import re
import ssl
import stat
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from teravec.errors import InvalidArgument, storage_errors
from teravec.storage.memory_file import memory_file

__all__ = [
    "check_authority",
    "check_pair",
    "expiry_of",
    "read_small",
    "warn_of_dates",
    "warn_of_readers",
]

_LARGEST_FILE = 1 << 20
_LABEL = re.compile(rb"^-----BEGIN ([A-Z0-9 ]+)-----", re.MULTILINE)
_CERTIFICATE = re.compile(
    rb"-----BEGIN [A-Z0-9 ]*CERTIFICATE-----.+?-----END [A-Z0-9 ]*CERTIFICATE-----", re.DOTALL
)
# A certificate's validity in DER: two times in sequence (RFC 5280, 4.1.2.5).
_TIME = rb"(?:\x17\x0d(\d{12})Z|\x18\x0f(\d{14})Z)"
_VALIDITY = re.compile(rb"\x30." + _TIME + _TIME, re.DOTALL)

# PEM label of an unsuitable file, its name in a message, and advice.
_INSTEAD = (
    ("CERTIFICATE REQUEST", "a request for a certificate", "have an authority sign it"),
    ("PUBLIC KEY", "a public key", "give the private key that it was made from"),
    ("OPENSSH PRIVATE KEY", "a key of SSH", "make one for TLS: openssl genpkey -algorithm RSA"),
    ("PKCS7", "a PKCS#7 bundle", "openssl pkcs7 -print_certs writes its certificates as PEM"),
    ("PRIVATE KEY", "a private key", "are certificate and key swapped?"),
    ("CERTIFICATE", "a certificate", "are certificate and key swapped?"),
)


def read_small(path: Path) -> bytes:
    """Read a file of tokens or certificates, which must be small."""
    with storage_errors(path, "read"), path.open("rb") as file:
        data = file.read(_LARGEST_FILE + 1)
    if len(data) > _LARGEST_FILE:
        raise InvalidArgument(f"{path}: more than {_LARGEST_FILE:,} bytes found")
    return data


def check_pair(certificate: Path, key: Path) -> None:
    """Raise InvalidArgument unless the files are a certificate (or a chain) and its key.

    The message names the file, its contents and a remedy.
    """
    chain = _certificates(certificate)
    _check_key(key)
    if (reason := _mismatch(certificate, key)) is None:
        return
    _check_each(certificate, chain)
    if "MISMATCH" not in reason:
        raise InvalidArgument(f"{key}: this private key cannot be used ({_words(reason)})")
    for number, pem in enumerate(chain[1:], 2):
        with memory_file(pem) as path:
            if _mismatch(path, key) is None:
                raise InvalidArgument(
                    f"{certificate}: the chain is in the wrong order: the certificate of the key "
                    f"is number {number} of {len(chain)}; put it first, then the one that signed "
                    "it, and so on"
                )
    raise InvalidArgument(
        f"{certificate} and {key} do not belong together: the key is another certificate's"
    )


def check_authority(path: Path) -> None:
    """Raise InvalidArgument unless the file holds authorities' certificates."""
    _check_each(path, _certificates(path))


def warn_of_dates(path: Path) -> list[str]:
    """Return a warning for each certificate that has expired or is not valid yet."""
    now, lines = datetime.now(UTC), []
    for start, end in _validities(path):
        if end < now:
            lines.append(
                f"{path}: the certificate expired on {end:%Y-%m-%d %H:%M} UTC; peers refuse it"
            )
        elif start > now:
            lines.append(
                f"{path}: the certificate is not valid before {start:%Y-%m-%d %H:%M} UTC; peers "
                "refuse it until then"
            )
    return lines


def expiry_of(path: Path) -> datetime | None:
    """Return when the first of a file's certificates expires; None if that is unknown."""
    return min((end for _, end in _validities(path)), default=None)


def warn_of_readers(path: Path) -> list[str]:
    """Return a warning if every user of this machine can read a secret file."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return []
    if stat.S_ISREG(mode) and mode & stat.S_IROTH:
        return [f"{path}: every user of this machine can read it; chmod o-r {path}"]
    return []


def _validities(path: Path) -> Iterator[tuple[datetime, datetime]]:
    """Yield the first and the last moment of each certificate whose dates can be read."""
    for pem in _CERTIFICATE.findall(read_small(path)):
        try:
            found = _VALIDITY.search(ssl.PEM_cert_to_DER_cert(_plain(pem)))
        except ValueError:
            continue
        if found is not None:
            yield _time(*found.groups()[:2]), _time(*found.groups()[2:])


def _certificates(path: Path) -> list[bytes]:
    """Return the PEM blocks of a file's certificates, at least one."""
    data = read_small(path)
    if found := _CERTIFICATE.findall(data):
        return [bytes(pem) for pem in found]
    if b"BEGIN CERTIFICATE-----" in data:
        raise InvalidArgument(f"{path}: the file is cut off: a certificate has no end")
    raise InvalidArgument(f"{path}: {_found(path, data, 'x509')}; a PEM certificate expected")


def _check_key(path: Path) -> None:
    data = read_small(path)
    labels = [label.decode() for label in _LABEL.findall(data)]
    if "ENCRYPTED PRIVATE KEY" in labels or b"Proc-Type: 4,ENCRYPTED" in data:
        raise InvalidArgument(
            f"{path}: the key is encrypted, and a server cannot ask for its passphrase; "
            f"openssl pkey -in {path} -out PLAIN.pem writes it without one"
        )
    if not any(x.endswith("PRIVATE KEY") and not x.startswith("OPENSSH") for x in labels):
        raise InvalidArgument(f"{path}: {_found(path, data, 'pkey')}; a PEM private key expected")


def _found(path: Path, data: bytes, command: str) -> str:
    """Describe a file that lacks the expected PEM block, with advice."""
    if not data.strip():
        return "the file is empty"
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "text in UTF-16 found, save it as plain text"
    labels = [label.decode() for label in _LABEL.findall(data)]
    for label, what, advice in _INSTEAD:
        if any(label in each for each in labels):
            return f"{what} found, {advice}"
    if data[:1] == b"\x30":  # a sequence of ASN.1
        if data[4:7] == b"\x02\x01\x03":
            return (
                f"a PKCS#12 file found, openssl pkcs12 -in {path} -nodes -out PLAIN.pem converts it"
            )
        return f"a binary (DER) file found, openssl {command} -inform DER -in {path} converts it"
    return "no block of PEM found"


def _check_each(path: Path, chain: list[bytes]) -> None:
    for number, pem in enumerate(chain, 1):
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=_plain(pem))
        except (ssl.SSLError, ValueError) as error:
            of = "the certificate" if len(chain) == 1 else f"certificate {number} of {len(chain)}"
            why = _words(getattr(error, "reason", None) or "not ASN.1 in base64")
            raise InvalidArgument(f"{path}: {of} is damaged ({why})") from error


def _mismatch(certificate: Path, key: Path) -> str | None:
    """Return OpenSSL's reason why certificate and key do not go together; None if they do."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(certificate, key, password=lambda: b"")  # never asks a terminal
    except ssl.SSLError as error:
        return error.reason or str(error)
    except (OSError, ValueError) as error:
        return str(error)
    return None


def _plain(pem: bytes) -> str:
    text = re.sub(rb"(X509|TRUSTED) CERTIFICATE", b"CERTIFICATE", pem)
    return text.decode("ascii", "replace")


def _words(reason: str) -> str:
    return reason.lower().replace("_", " ")


def _time(short: bytes | None, long: bytes | None) -> datetime:
    """Parse a UTCTime (two digits, 1950 to 2049) or a GeneralizedTime."""
    if long is None:
        assert short is not None
        long = (b"20" if int(short[:2]) < 50 else b"19") + short
    return datetime.strptime(long.decode(), "%Y%m%d%H%M%S").replace(tzinfo=UTC)
