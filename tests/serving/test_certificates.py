"""What is wrong with a certificate or key is told by file, on both ports and to clients."""

from __future__ import annotations

import logging
import os
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

import teravec
from teravec.errors import InvalidArgument, TeravecError
from teravec.serving.deploy.launch import ServeOptions, launch
from teravec.serving.wire.certificates import (
    check_authority,
    check_pair,
    warn_of_dates,
    warn_of_readers,
)
from teravec.serving.wire.security import Address, ServerSecurity
from tests.serving.certificates import Authority, Pem
from tests.serving.conftest import QUERIES, Launch

PEM, DER = serialization.Encoding.PEM, serialization.Encoding.DER


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def pem(authority: Authority) -> Pem:
    return authority.sign("server")


def damaged(path: Path) -> bytes:
    data = path.read_bytes()
    return data[:80] + b"####" + data[84:]


def encrypted(key: Path) -> bytes:
    loaded = serialization.load_pem_private_key(key.read_bytes(), None)
    return loaded.private_bytes(
        PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"secret")
    )


def traditional(key: Path) -> bytes:
    """As ``openssl rsa -aes128`` wrote it for decades."""
    made = rsa.generate_private_key(65537, 2048)
    return made.private_bytes(
        PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.BestAvailableEncryption(b"secret"),
    )


def ssh(key: Path) -> bytes:
    made = ec.generate_private_key(ec.SECP256R1())
    return made.private_bytes(
        PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )


def public(key: Path) -> bytes:
    loaded = serialization.load_pem_private_key(key.read_bytes(), None)
    return loaded.public_key().public_bytes(PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def der_key(key: Path) -> bytes:
    loaded = serialization.load_pem_private_key(key.read_bytes(), None)
    return loaded.private_bytes(
        DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


@pytest.mark.parametrize(
    ("wrong", "part"),
    [
        (encrypted, "key is encrypted.*openssl pkey"),
        (traditional, "key is encrypted.*openssl pkey"),
        (ssh, "a key of SSH"),
        (public, "a public key found"),
        (der_key, "binary \\(DER\\).*openssl pkey -inform DER"),
        (lambda _: b"", "the file is empty"),
        (lambda _: b" \n\n", "the file is empty"),
        (lambda _: os.urandom(900).replace(b"\x30", b"x"), "no block of PEM|UTF-16"),
        (lambda key: key.read_text().encode("utf-16"), "UTF-16"),
        (lambda key: damaged(key), "this private key cannot be used"),
    ],
)
def test_keys_that_are_none(wrong: object, part: str, pem: Pem, tmp_path: Path) -> None:
    key = tmp_path / "wrong.key"
    key.write_bytes(wrong(pem.key))  # type: ignore[operator]
    with pytest.raises(InvalidArgument, match=f"wrong.key: .*({part})"):
        check_pair(pem.certificate, key)


def request_of(pem: Pem) -> bytes:
    key = serialization.load_pem_private_key(pem.key.read_bytes(), None)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "server")])
    builder = x509.CertificateSigningRequestBuilder().subject_name(name)
    return builder.sign(key, hashes.SHA256()).public_bytes(PEM)  # type: ignore[arg-type]


def der(pem: Pem) -> bytes:
    return ssl.PEM_cert_to_DER_cert(pem.certificate.read_text())


@pytest.mark.parametrize(
    ("wrong", "part"),
    [
        (request_of, "request for a certificate"),
        (der, "binary \\(DER\\).*openssl x509 -inform DER"),
        (lambda pem: pem.key.read_bytes(), "a private key found, are certificate and key swapped"),
        (lambda pem: pem.certificate.read_bytes()[:300], "cut off"),
        (lambda pem: b"hello\n", "no block of PEM"),
        (lambda _: b"", "the file is empty"),
        (lambda pem: damaged(pem.certificate), "damaged"),
        (lambda _: b"x" * (2 << 20), "more than"),
    ],
)
def test_certificates_that_are_none(wrong: object, part: str, pem: Pem, tmp_path: Path) -> None:
    certificate = tmp_path / "wrong.crt"
    certificate.write_bytes(wrong(pem))  # type: ignore[operator]
    with pytest.raises(InvalidArgument, match=f"wrong.crt: .*({part})"):
        check_pair(certificate, pem.key)
    with pytest.raises(InvalidArgument, match=f"wrong.crt: .*({part})"):
        check_authority(certificate)


def test_pairs_that_do_not_belong_together(authority: Authority, pem: Pem, tmp_path: Path) -> None:
    other = authority.sign("other")
    with pytest.raises(InvalidArgument, match="do not belong together"):
        check_pair(pem.certificate, other.key)
    chain = tmp_path / "chain.crt"
    chain.write_bytes(authority.path.read_bytes() + pem.certificate.read_bytes())
    with pytest.raises(InvalidArgument, match=r"wrong order.*number 2 of 2"):
        check_pair(chain, pem.key)
    chain.write_bytes(pem.certificate.read_bytes() + authority.path.read_bytes())
    check_pair(chain, pem.key)
    both = tmp_path / "both.pem"  # as some programs want them
    both.write_bytes(pem.key.read_bytes() + pem.certificate.read_bytes())
    check_pair(both, both)
    with pytest.raises(TeravecError, match=r"none.crt: cannot read"):
        check_pair(tmp_path / "none.crt", pem.key)
    with pytest.raises(TeravecError, match="cannot read"):
        check_pair(tmp_path, pem.key)


def test_dates_and_readers_are_warned_of(
    authority: Authority,
    pem: Pem,
    index: Path,
    serve: Launch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    assert warn_of_dates(pem.certificate) == []
    expired = authority.sign("expired", days=-3)
    assert "expired on 20" in warn_of_dates(expired.certificate)[0]
    pem.key.chmod(0o640)
    assert warn_of_readers(pem.key) == []
    tokens = tmp_path / "tokens"
    tokens.write_text("a-token-of-tests-1234")
    for path in (tokens, expired.key):
        path.chmod(0o644)
    serve(
        index,
        security=ServerSecurity(
            expired.certificate, expired.key, client_ca=authority.path, token_file=tokens
        ),
    )
    assert "expired.crt: the certificate expired" in caplog.text
    assert f"chmod o-r {tokens}" in caplog.text
    assert f"chmod o-r {expired.key}" in caplog.text
    assert "a-token-of-tests-1234" not in caplog.text
    caplog.set_level(logging.WARNING)


def test_a_certificate_of_the_future(tmp_path: Path) -> None:
    from datetime import UTC, datetime, timedelta

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "later")])
    start = datetime.now(UTC) + timedelta(days=365 * 40)  # a year beyond UTCTime's
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(start)
        .not_valid_after(start + timedelta(days=9))
        .sign(key, hashes.SHA256())
    )
    path = tmp_path / "later.crt"
    path.write_bytes(made.public_bytes(PEM))
    assert f"not valid before {start:%Y-%m-%d}" in warn_of_dates(path)[0]


def test_servers_and_clients_tell(
    index: Path, serve: Launch, authority: Authority, pem: Pem
) -> None:
    for swapped in (
        ServerSecurity(pem.key, pem.certificate),
        ServerSecurity(pem.certificate, pem.key, client_ca=pem.key),
    ):
        with pytest.raises(InvalidArgument, match="swapped"):
            launch(ServeOptions(index, http=Address("127.0.0.1", 0), security=swapped))
    server = serve(index, security=ServerSecurity(pem.certificate, pem.key))
    url = f"grpc+tls://{server.address}"
    with pytest.raises(InvalidArgument, match=r"server.key: .*swapped"):
        teravec.connect(url, ca=pem.key)
    with pytest.raises(InvalidArgument, match="swapped"):
        teravec.connect(url, ca=authority.path, certificate=pem.key, key=pem.certificate)
    with teravec.connect(url, ca=authority.path) as remote:
        assert remote.search(QUERIES, 3, 3)[1].shape == (40, 3)
