"""GetBucketCors, PutBucketCors, DeleteBucketCors.

Source: https://docs.aws.amazon.com/AmazonS3/latest/API/API_PutBucketCors.html
"""

from __future__ import annotations

from titans3.http.message import Response
from titans3.model.configuration import Cors, CorsRule
from titans3.s3.call import Call
from titans3.s3.cors import METHODS
from titans3.s3.errors import S3Error
from titans3.s3.xmlin import Element, parse_tree
from titans3.s3.xmlout import CONTENT_TYPE, document, escape_text

_RULES_MAX = 100
_ID_CHARS_MAX = 255
_BYTES_MAX = 64 * 1024
_ONE_EACH = {"ID", "MaxAgeSeconds"}
_LISTS = {"AllowedOrigin", "AllowedMethod", "AllowedHeader", "ExposeHeader"}


async def get_bucket_cors(call: Call) -> Response:
    """The rules. Raises NoSuchCORSConfiguration."""
    cors = await call.store.configurations.find(call.bucket, Cors)
    if cors is None:
        raise S3Error("NoSuchCORSConfiguration", BucketName=call.bucket_name)
    return Response(200, [CONTENT_TYPE], document("CORSConfiguration", "".join([_rule_text(rule) for rule in cors.rules])))


async def put_bucket_cors(call: Call) -> Response:
    """Replace the rules. Raises MalformedXML, InvalidRequest."""
    data = await call.read_proven(required=True)
    if len(data) > _BYTES_MAX:
        raise S3Error("MaxMessageLengthExceeded", MaxMessageLengthBytes=str(_BYTES_MAX))
    await call.store.configurations.set(call.bucket, parse_cors(data))
    return Response(200)


async def delete_bucket_cors(call: Call) -> Response:
    """Take the rules away; there need not be any."""
    await call.store.configurations.remove(call.bucket, Cors)
    return Response(204)


def parse_cors(data: bytes) -> Cors:
    """A CORSConfiguration document. Raises MalformedXML, InvalidRequest."""
    elements = parse_tree(data, "CORSConfiguration")
    if not elements or any(element.name != "CORSRule" for element in elements):
        raise S3Error("MalformedXML")
    if len(elements) > _RULES_MAX:
        raise S3Error("InvalidRequest", f"The number of CORS rules should not exceed allowed limit of {_RULES_MAX} rules.")
    return Cors(1, tuple(_parse_rule(element) for element in elements))


def _parse_rule(element: Element) -> CorsRule:
    if element.names() - _ONE_EACH - _LISTS or any(len(element.all(name)) > 1 for name in _ONE_EACH):
        raise S3Error("MalformedXML")
    origins, methods = element.texts("AllowedOrigin"), element.texts("AllowedMethod")
    headers, exposed = element.texts("AllowedHeader"), element.texts("ExposeHeader")
    if not origins or not methods:
        raise S3Error("MalformedXML")
    for method in methods:
        if method not in METHODS:
            raise S3Error("InvalidRequest", f"Found unsupported HTTP method in CORS config. Unsupported method is {method[:100]}")
    for name, patterns in (("AllowedOrigin", origins), ("AllowedHeader", headers)):
        for pattern in patterns:
            if pattern.count("*") > 1:
                raise S3Error("InvalidRequest", f'{name} "{pattern[:200]}" can not have more than one wildcard.')
    for name in exposed:
        if "*" in name:
            raise S3Error(
                "InvalidRequest",
                f'ExposeHeader "{name[:200]}" contains wildcard. We currently do not support wildcard for ExposeHeader.',
            )
    if not all(text.isascii() and text.isprintable() for text in (*headers, *exposed)):
        raise S3Error("MalformedXML")
    (rule_id,) = element.texts("ID") or ("",)
    (age,) = element.texts("MaxAgeSeconds") or ("",)
    if len(rule_id) > _ID_CHARS_MAX or (age and not (age.isascii() and age.isdecimal() and len(age) < 10)):
        raise S3Error("MalformedXML")
    return CorsRule(origins, methods, headers, exposed, int(age) if age else -1, rule_id)


def _rule_text(rule: CorsRule) -> str:
    parts = [f"<ID>{escape_text(rule.rule_id)}</ID>"] if rule.rule_id else []
    for name, texts in (
        ("AllowedOrigin", rule.origins), ("AllowedMethod", rule.methods), ("AllowedHeader", rule.headers), ("ExposeHeader", rule.exposed),
    ):  # fmt: skip
        parts += [f"<{name}>{escape_text(text)}</{name}>" for text in texts]
    if rule.max_age_seconds >= 0:
        parts.append(f"<MaxAgeSeconds>{rule.max_age_seconds}</MaxAgeSeconds>")
    return f"<CORSRule>{''.join(parts)}</CORSRule>"
