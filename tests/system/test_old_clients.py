"""The clients of the two older services, unchanged."""

from __future__ import annotations

import json
import ssl
from pathlib import Path

import pytest

from deploy.cluster import RunningCluster
from tests.system.wire import Wire

DIGESTS = {
    "foo": "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae",
    "bar": "fcde2b2edba56bf408601fb721fe9b5c338d10ee429ea04fae5511b68fbf8fb9",
}


@pytest.fixture
def trusting(certificate: Path) -> ssl.SSLContext:
    """TLS that trusts the cluster's self-signed certificate and checks it."""
    return ssl.create_default_context(cafile=str(certificate))


def test_the_usages_services_curl_line_works(base_url: str) -> None:
    """What curl sends for the original's README: a string patientId, JSON, curl's own headers; an integer id comes."""
    body = b'{"patientId": "100", "timestamp": "Tue Nov 01 2016 09:11:51 GMT-0500 (CDT)", "medication": "Albuterol"}'
    with Wire(base_url) as wire:
        wire.send(
            b"POST /api/usages HTTP/1.1\r\nHost: %b\r\nUser-Agent: curl/7.50.1\r\nAccept: */*\r\n"
            b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (wire.host.encode(), len(body), body)
        )
        answer = wire.answer()
        assert answer.status == 201
        id_ = answer.json()["id"]
        assert type(id_) is int
        assert id_ >= 1
        # The original's other example has the number.
        number = wire.exchange(
            "POST", "/api/usages", [("Content-Type", "application/json")], body.replace(b'"100"', b"100")
        )
        assert number.status == 201
        assert number.json()["id"] != id_


@pytest.mark.parametrize("content_type", ["application/json", "application/x-www-form-urlencoded"])
def test_the_message_services_acceptance_test_passes_over_https(
    cluster: RunningCluster, trusting: ssl.SSLContext, content_type: str
) -> None:
    """404 on 64 times `a`; 201 and the digest of `foo`; 200 and the message; then `bar`; `foo` is still there. Twice."""
    assert cluster.https_url is not None
    with Wire(cluster.https_url, tls=trusting) as wire:
        for _ in range(2):
            missing = wire.exchange("GET", f"/messages/{'a' * 64}")
            assert missing.status == 404
            assert missing.json()["err_msg"] == "Message not found"
            for message, digest in DIGESTS.items():
                body = json.dumps({"message": message}).encode()
                posted = wire.exchange("POST", "/messages", [("Content-Type", content_type)], body)
                assert posted.status == 201
                assert posted.json() == {"digest": digest}
                read = wire.exchange("GET", f"/messages/{digest}")
                assert read.status == 200
                assert read.json() == {"message": message}
            again = wire.exchange("GET", f"/messages/{DIGESTS['foo']}")
            assert (again.status, again.json()) == (200, {"message": "foo"})


def test_http_and_https_are_one_service(cluster: RunningCluster, base_url: str, trusting: ssl.SSLContext) -> None:
    """What was posted over one is read over the other, and what is hidden on one is hidden on the other."""
    assert cluster.https_url is not None
    with Wire(cluster.https_url, tls=trusting) as tls, Wire(base_url) as plain:
        id_ = tls.exchange("POST", "/api/usages", [("Content-Type", "application/json")], b'{"a": 1}').json()["id"]
        assert plain.exchange("GET", f"/api/usages/{id_}").json()["usage"] == {"a": 1}
        for target in ("/metrics", "/%6detrics", "/METRICS"):
            assert tls.exchange("GET", target).status == 404


def test_plain_http_on_the_tls_port_and_tls_without_trust_fail(cluster: RunningCluster) -> None:
    """The certificate is self-signed: a client that was not told of it refuses, and nobody is served in the clear."""
    assert cluster.https_url is not None
    with pytest.raises(ssl.SSLCertVerificationError):
        Wire(cluster.https_url, tls=ssl.create_default_context())
    with Wire(cluster.https_url.replace("https", "http")) as wire:
        wire.request("GET", "/livez")
        assert b"alive" not in wire.rest()
