"""GetObjectTagging, PutObjectTagging, DeleteObjectTagging.

Source: https://docs.aws.amazon.com/AmazonS3/latest/API/API_PutObjectTagging.html
"""

from __future__ import annotations

from titans3.http.message import Response
from titans3.model.version import Version
from titans3.s3.call import Call
from titans3.s3.get import find_version
from titans3.s3.headers import Pairs
from titans3.s3.tags import OBJECT_TAGS_MAX, tagging_document, tags_of_document
from titans3.s3.xmlout import CONTENT_TYPE


async def get_object_tagging(call: Call) -> Response:
    """The tags of a version, an empty set for none. Raises NoSuchKey, NoSuchVersion, MethodNotAllowed on a marker."""
    version, _ = await find_version(call, body=False)
    return Response(200, [CONTENT_TYPE, *_version_header(call, version)], tagging_document(version.tags))


async def put_object_tagging(call: Call) -> Response:
    """Replace the tags of a version. Raises MalformedXML, InvalidTag and what GetObjectTagging raises."""
    return await _set(call, 200, tags_of_document(await call.read_proven(), OBJECT_TAGS_MAX))


async def delete_object_tagging(call: Call) -> Response:
    """Take all tags away. Raises what GetObjectTagging raises."""
    return await _set(call, 204, {})


async def _set(call: Call, status: int, tags: dict[str, str]) -> Response:
    await find_version(call, body=False)  # its errors name key and version
    done = await call.store.set_tags(call.bucket, call.key, call.version_id() if "versionId" in call.query else "", tags)
    return Response(status, _version_header(call, done))


def _version_header(call: Call, version: Version) -> Pairs:
    return [(b"x-amz-version-id", version.version_id.encode("ascii"))] if call.shows(version) else []
