"""What a bucket answers about that which cannot be configured here (yet): the same as S3 says of a bucket where it is not configured.

Clients read these on their way: infrastructure tools after creating a bucket, others to find out what a server can do. A bare 501
stops them. Setting any of it is 501, so that what is answered here is always true.

Source: the "Errors" and "Returns" of each operation in https://docs.aws.amazon.com/AmazonS3/latest/API/API_Operations_Amazon_Simple_Storage_Service.html
"""

from __future__ import annotations

from titans3.http.message import Response
from titans3.s3.call import Call, Handler
from titans3.s3.errors import S3Error
from titans3.s3.get import find_version
from titans3.s3.xmlout import CONTENT_TYPE, document

_NOT_TRUNCATED = "<IsTruncated>false</IsTruncated>"


def _absent(code: str) -> Handler:
    """Always refused with the code that says "not configured"."""

    async def answer(call: Call) -> Response:
        raise S3Error(code, BucketName=call.bucket_name)

    return answer


def _fixed(root: str, content: str = "") -> Handler:
    """Always the same document."""
    data = document(root, content)

    async def answer(_: Call) -> Response:
        return Response(200, [CONTENT_TYPE], data)

    return answer


async def _nothing_to_delete(_: Call) -> Response:
    """What is not there is deleted, as S3 has it."""
    return Response(204)


async def _no_object_lock(call: Call) -> Response:
    """Retention and legal hold of a version in a bucket without object lock. Raises InvalidRequest, NoSuchKey, NoSuchVersion."""
    await find_version(call, body=False)
    raise S3Error("InvalidRequest", "Bucket is missing Object Lock Configuration")


UNCONFIGURED: dict[str, Handler] = {
    "DeleteBucketAnalyticsConfiguration": _absent("NoSuchConfiguration"),
    "DeleteBucketEncryption": _nothing_to_delete,
    "DeleteBucketIntelligentTieringConfiguration": _absent("NoSuchConfiguration"),
    "DeleteBucketInventoryConfiguration": _absent("NoSuchConfiguration"),
    "DeleteBucketLifecycle": _nothing_to_delete,
    "DeleteBucketMetricsConfiguration": _absent("NoSuchConfiguration"),
    "DeleteBucketReplication": _nothing_to_delete,
    "DeleteBucketWebsite": _nothing_to_delete,
    "GetBucketAccelerateConfiguration": _fixed("AccelerateConfiguration"),
    "GetBucketAnalyticsConfiguration": _absent("NoSuchConfiguration"),
    "GetBucketEncryption": _absent("ServerSideEncryptionConfigurationNotFoundError"),
    "GetBucketIntelligentTieringConfiguration": _absent("NoSuchConfiguration"),
    "GetBucketInventoryConfiguration": _absent("NoSuchConfiguration"),
    "GetBucketLifecycleConfiguration": _absent("NoSuchLifecycleConfiguration"),
    "GetBucketLogging": _fixed("BucketLoggingStatus"),
    "GetBucketMetricsConfiguration": _absent("NoSuchConfiguration"),
    "GetBucketNotificationConfiguration": _fixed("NotificationConfiguration"),
    "GetBucketReplication": _absent("ReplicationConfigurationNotFoundError"),
    "GetBucketRequestPayment": _fixed("RequestPaymentConfiguration", "<Payer>BucketOwner</Payer>"),
    "GetBucketWebsite": _absent("NoSuchWebsiteConfiguration"),
    "GetObjectLegalHold": _no_object_lock,
    "GetObjectLockConfiguration": _absent("ObjectLockConfigurationNotFoundError"),
    "GetObjectRetention": _no_object_lock,
    "ListBucketAnalyticsConfigurations": _fixed("ListBucketAnalyticsConfigurationsResult", _NOT_TRUNCATED),
    "ListBucketIntelligentTieringConfigurations": _fixed("ListBucketIntelligentTieringConfigurationsOutput", _NOT_TRUNCATED),
    "ListBucketInventoryConfigurations": _fixed("ListInventoryConfigurationsResult", _NOT_TRUNCATED),
    "ListBucketMetricsConfigurations": _fixed("ListMetricsConfigurationsResult", _NOT_TRUNCATED),
}
