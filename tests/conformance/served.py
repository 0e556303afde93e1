"""What a conformance test is given: a server over HTTP and one over TLS, boto3 clients of both, and requests spelled by hand.

Invariants
* A request is sent once: nothing of a client's retries hides an answer.
* A refusal is compared by code and status, both.
"""

from __future__ import annotations

import http.client
import json
import ssl
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import boto3
import pytest
import trustme
from botocore.auth import UNSIGNED_PAYLOAD, S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials
from botocore.exceptions import ClientError

from tests.faults.server import Server

ET.register_namespace("", "http://s3.amazonaws.com/doc/2006-03-01/")


@dataclass
class Answer:
    """A whole answer; ``headers`` by lower-case name (the last of repeated ones)."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def xml(self) -> ET.Element:
        """The document without its namespace."""
        root = ET.fromstring(self.body)
        for element in root.iter():
            element.tag = element.tag.rpartition("}")[2]
        return root

    @property
    def code(self) -> str:
        """The error's code, empty if there is none."""
        return self.xml.findtext("Code") or "" if self.body.startswith(b"<?xml") else ""

    def all(self, path: str) -> list[str]:
        """Texts of all elements of a path."""
        return [element.text or "" for element in self.xml.findall(path)]


class Signer(S3SigV4Auth):  # type: ignore[misc]
    """botocore's, with x-amz-content-sha256 as given."""

    def __init__(self, payload: str, access_key: str, secret_key: str) -> None:
        super().__init__(Credentials(access_key, secret_key), "s3", "us-east-1")
        self._payload = payload

    def payload(self, request: Any) -> str:
        return self._payload


@dataclass
class Endpoint:
    """A running server and who may ask it. ``authority``: file of the certificate to trust, empty over HTTP."""

    server: Server
    authority: str = ""
    keys: tuple[str, str] = ("", "")

    @property
    def url(self) -> str:
        return f"{'https' if self.authority else 'http'}://127.0.0.1:{self.server.port}"

    def client(self, **options: Any) -> Any:
        """A boto3 client of the root that asks once. ``keys``: access key, secret, session token if there is one.

        ``service``: ``s3``, ``iam``, ``sts``; other options go to botocore's Config.
        """
        access_key, secret, *token = options.pop("keys", self.keys)
        s3 = {"addressing_style": "path", **options.pop("s3", {})}
        return boto3.client(
            options.pop("service", "s3"), endpoint_url=self.url, region_name="us-east-1", verify=self.authority or None,
            aws_access_key_id=access_key, aws_secret_access_key=secret, aws_session_token=token[0] if token else None,
            config=Config(s3=s3, retries={"total_max_attempts": 1}, max_pool_connections=64, **options),
        )  # fmt: skip

    def raw(
        self, method: str, target: str, headers: dict[str, str] | None = None, body: bytes = b"", *, sign: bool = True,
        keys: tuple[str, str] | None = None, length: bool = True,
    ) -> Answer:
        """One request, its target as given; signed with SigV4 in its headers unless ``sign`` is false."""
        sent = dict(headers or {})
        if sign:
            payload = {name.lower(): value for name, value in sent.items()}.get("x-amz-content-sha256", UNSIGNED_PAYLOAD)
            request = AWSRequest(method, self.url + target, headers=sent, data=body)
            Signer(payload, *(keys or self.keys)).add_auth(request)
            sent = {name: request.headers[name] for name in request.headers}
        connection = self._connection()
        connection.putrequest(method, target, skip_accept_encoding=True)
        for name, value in sent.items():
            connection.putheader(name, value.encode("latin-1", "replace") if isinstance(value, str) else value)
        if length and "content-length" not in {name.lower() for name in sent} and (body or method in ("PUT", "POST")):
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body or None)
        found = connection.getresponse()
        answer = Answer(found.status, {name.lower(): value for name, value in found.getheaders()}, found.read())
        connection.close()
        return answer

    def admin(
        self, method: str, path: str, body: Any = None, *, keys: tuple[str, str] | None = None, sign: bool = True
    ) -> tuple[int, Any]:
        """One request of the admin API: status and the answer's JSON (``None`` if there is none)."""
        data = b"" if body is None else json.dumps(body).encode()
        headers = {"X-Amz-Content-SHA256": sha256(data).hexdigest(), "Content-Type": "application/json"}
        answer = self.raw(method, f"/_titans3/admin/v1{path}", headers if sign else None, data, keys=keys, sign=sign)
        return answer.status, json.loads(answer.body) if answer.body else None

    def _connection(self) -> http.client.HTTPConnection:
        if not self.authority:
            return http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=30)
        context = ssl.create_default_context(cafile=self.authority)
        return http.client.HTTPSConnection("127.0.0.1", self.server.port, timeout=30, context=context)


@contextmanager
def refused(code: str, status: int) -> Iterator[pytest.ExceptionInfo[ClientError]]:
    """What is inside must be refused with this code and status (code of a HEAD: the status as text)."""
    with pytest.raises(ClientError) as caught:
        yield caught
    response = caught.value.response
    assert (response["Error"]["Code"], response["ResponseMetadata"]["HTTPStatusCode"]) == (code, status), response


def fields_of(caught: pytest.ExceptionInfo[ClientError]) -> dict[str, Any]:
    """Elements of the refusal's document."""
    return dict(caught.value.response["Error"])


def canonical(s3: Any) -> str:
    """The canonical id of the client's account."""
    found = s3.list_buckets()["Owner"]["ID"]
    assert len(found) == 64
    return str(found)


def drain(client: Any, name: str, key: str, **arguments: Any) -> list[Any]:
    """All items of all pages that a paginator of boto3 gives."""
    return [item for page in client.get_paginator(name).paginate(**arguments) for item in page.get(key, [])]


def certificate(folder: Path) -> tuple[str, str, str]:
    """Files of (certificate, private key, authority) of 127.0.0.1."""
    authority = trustme.CA()
    pair = authority.issue_cert("127.0.0.1", "localhost")
    pair.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    pair.private_key_pem.write_to_path(folder / "key.pem")
    authority.cert_pem.write_to_path(folder / "authority.pem")
    return str(folder / "cert.pem"), str(folder / "key.pem"), str(folder / "authority.pem")
