"""Uploads in parts that a kill left unfinished in S3: they are not listed, but paid for.

obstore has no call for them, so these two requests are signed here (AWS Signature Version 4). Azure
removes its own after a week; Google has rules of a bucket's life cycle for them.

References
----------
https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html
https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListMultipartUploads.html
"""

from __future__ import annotations

import hashlib
import hmac
import html
import logging
import os
import re
import ssl
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import NamedTuple

from teravec.errors import StorageError
from teravec.storage.object_address import ObjectAddress, StoreOptions
from teravec.storage.object_connection import connect

__all__ = ["abort_uploads"]

log = logging.getLogger(__name__)

_TIMEOUT_S = 30
_LONGEST_ANSWER = 4 << 20  # bytes; a page has at most 1,000 uploads
_UPLOAD = re.compile(r"<Upload>(.*?)</Upload>", re.DOTALL)
_FIELD = "<{0}>(.*?)</{0}>"
_LIFE_CYCLE = "a life cycle rule of the bucket (AbortIncompleteMultipartUpload) removes them"


def _read_environment() -> dict[str, str]:
    """Return what obstore takes from the environment by itself, and does not tell."""
    names = {
        "access_key_id": ("AWS_ACCESS_KEY_ID",),
        "secret_access_key": ("AWS_SECRET_ACCESS_KEY",),
        "session_token": ("AWS_SESSION_TOKEN",),
        "region": ("AWS_REGION", "AWS_DEFAULT_REGION"),
        "endpoint": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"),
    }
    found = {
        name: next((os.environ[each] for each in variables if each in os.environ), None)
        for name, variables in names.items()
    }
    return {name: value for name, value in found.items() if value is not None}


class _Upload(NamedTuple):
    key: str
    number: str
    began: datetime


def abort_uploads(address: ObjectAddress, options: StoreOptions, older_than: timedelta) -> int:
    """Abort uploads below an address that began longer ago than this; return how many.

    Does nothing where the store is not S3, or where credentials are not static: then it warns.

    Raises
    ------
    StorageError
    """
    if address.kind != "s3":
        return 0
    config = _read_environment()
    config |= {
        k.removeprefix("aws_"): v for k, v in connect(address, options).client.config.items()
    }
    if "access_key_id" not in config or "secret_access_key" not in config:
        log.warning("%s: unfinished uploads are not looked for; %s", address, _LIFE_CYCLE)
        return 0
    bucket = _Bucket(address, config, dict(options))
    limit = datetime.now(UTC) - older_than
    old = [upload for upload in bucket.list_uploads(address.key) if upload.began < limit]
    for upload in old:
        bucket.abort(upload)
        log.info("%s: an unfinished upload removed", address.kind + "://" + address.bucket)
    return len(old)


class _Bucket:
    """Signed requests to a bucket."""

    def __init__(
        self, address: ObjectAddress, config: Mapping[str, str], options: Mapping[str, str]
    ) -> None:
        self._address, self._config, self._options = address, config, options
        self._region = config.get("region", "us-east-1")
        endpoint = config.get("endpoint") or f"https://s3.{self._region}.amazonaws.com"
        self._scheme, _, rest = endpoint.rstrip("/").partition("://")
        self._host, _, path = rest.partition("/")
        hosted = str(config.get("virtual_hosted_style_request", "")).lower() == "true"
        named = hosted and "endpoint" in config  # such an endpoint names the bucket already
        self._path = f"/{path}".rstrip("/") + ("" if named else f"/{address.bucket}")

    def list_uploads(self, key: str) -> Iterator[_Upload]:
        """List the uploads of an object's key, and of those below it."""
        marker, number = "", ""
        while True:
            query = {"uploads": "", "prefix": key}
            query |= {"key-marker": marker, "upload-id-marker": number} if marker else {}
            page = self._send("GET", "", query).decode()
            for text in _UPLOAD.findall(page):
                found = _Upload(
                    html.unescape(_field(text, "Key")),
                    html.unescape(_field(text, "UploadId")),
                    datetime.fromisoformat(_field(text, "Initiated").replace("Z", "+00:00")),
                )
                if not key or found.key == key or found.key.startswith(f"{key}/"):
                    yield found
            if _field(page, "IsTruncated") != "true":
                return
            marker = html.unescape(_field(page, "NextKeyMarker"))
            number = html.unescape(_field(page, "NextUploadIdMarker"))

    def abort(self, upload: _Upload) -> None:
        self._send("DELETE", f"/{upload.key}", {"uploadId": upload.number})

    def _send(self, method: str, path: str, query: Mapping[str, str]) -> bytes:
        target = _quote(self._path + path, "/") or "/"
        asked = "&".join(f"{_quote(k)}={_quote(v)}" for k, v in sorted(query.items()))
        headers = self._sign(method, target, asked)
        try:
            connection = self._connect()
            try:
                connection.request(method, f"{target}?{asked}", headers=headers)
                answer = connection.getresponse()
                body, status = answer.read(_LONGEST_ANSWER), answer.status
            finally:
                connection.close()
        except (OSError, HTTPException) as error:
            raise StorageError(
                f"{self._address}: cannot list unfinished uploads: {type(error).__name__}"
            ) from None
        if status == 404 and method == "DELETE":  # it ended meanwhile
            return b""
        if status >= 300:
            raise StorageError(
                f"{self._address}: cannot remove unfinished uploads: status {status}; {_LIFE_CYCLE}"
            )
        return body

    def _connect(self) -> HTTPConnection:
        if self._scheme == "http":
            return HTTPConnection(self._host, timeout=_TIMEOUT_S)
        context = ssl.create_default_context()
        if "root_certificate" in self._options:
            context.load_verify_locations(self._options["root_certificate"])
        return HTTPSConnection(self._host, timeout=_TIMEOUT_S, context=context)

    def _sign(self, method: str, target: str, query: str) -> dict[str, str]:
        """Return a request's headers, its signature among them."""
        now = datetime.now(UTC)
        time, day = now.strftime("%Y%m%dT%H%M%SZ"), now.strftime("%Y%m%d")
        body = hashlib.sha256(b"").hexdigest()
        headers = {"host": self._host, "x-amz-content-sha256": body, "x-amz-date": time}
        token = self._config.get("session_token") or self._config.get("token")
        if token:
            headers["x-amz-security-token"] = token
        names = ";".join(sorted(headers))
        lines = "".join(f"{name}:{headers[name]}\n" for name in sorted(headers))
        request = f"{method}\n{target}\n{query}\n{lines}\n{names}\n{body}"
        scope = f"{day}/{self._region}/s3/aws4_request"
        signed = hashlib.sha256(request.encode()).hexdigest()
        text = f"AWS4-HMAC-SHA256\n{time}\n{scope}\n{signed}"
        key = f"AWS4{self._config['secret_access_key']}".encode()
        for part in (day, self._region, "s3", "aws4_request"):
            key = hmac.digest(key, part.encode(), "sha256")
        signature = hmac.digest(key, text.encode(), "sha256").hex()
        headers["authorization"] = (
            f"AWS4-HMAC-SHA256 Credential={self._config['access_key_id']}/{scope}, "
            f"SignedHeaders={names}, Signature={signature}"
        )
        return headers


def _field(text: str, name: str) -> str:
    match = re.search(_FIELD.format(name), text, re.DOTALL)
    return match.group(1).strip() if match else ""


def _quote(text: str, safe: str = "") -> str:
    """Encode as the signature wants it: everything but letters, digits and ``-._~``."""
    kept = f"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~{safe}"
    return "".join(
        chr(byte) if chr(byte) in kept and byte < 128 else f"%{byte:02X}" for byte in text.encode()
    )
