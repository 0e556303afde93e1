"""Which function answers which operation: the list of what is built.

Invariants
* Names are those of the operation table; a name that is not here answers 501.
"""

from __future__ import annotations

from titans3.s3 import (
    attributes,
    bucket,
    bucket_cors,
    bucket_tagging,
    complete,
    copy,
    delete,
    get,
    listing,
    multipart,
    ownership,
    post,
    put,
    service,
    tagging,
    versioning,
)
from titans3.s3.call import Handler
from titans3.s3.configuration import UNCONFIGURED

HANDLERS: dict[str, Handler] = UNCONFIGURED | {
    "AbortMultipartUpload": multipart.abort_multipart_upload,
    "CompleteMultipartUpload": complete.complete_multipart_upload,
    "CopyObject": copy.copy_object,
    "CreateBucket": bucket.create_bucket,
    "CreateMultipartUpload": multipart.create_multipart_upload,
    "DeleteBucket": bucket.delete_bucket,
    "DeleteBucketCors": bucket_cors.delete_bucket_cors,
    "DeleteBucketOwnershipControls": ownership.delete_bucket_ownership_controls,
    "DeleteBucketTagging": bucket_tagging.delete_bucket_tagging,
    "DeleteObject": delete.delete_object,
    "DeleteObjectTagging": tagging.delete_object_tagging,
    "DeleteObjects": delete.delete_objects,
    "GetBucketCors": bucket_cors.get_bucket_cors,
    "GetBucketLocation": bucket.get_bucket_location,
    "GetBucketOwnershipControls": ownership.get_bucket_ownership_controls,
    "GetBucketTagging": bucket_tagging.get_bucket_tagging,
    "GetBucketVersioning": versioning.get_bucket_versioning,
    "GetObject": get.get_object,
    "GetObjectAttributes": attributes.get_object_attributes,
    "GetObjectTagging": tagging.get_object_tagging,
    "HeadBucket": bucket.head_bucket,
    "HeadObject": get.head_object,
    "ListBuckets": service.list_buckets,
    "ListMultipartUploads": multipart.list_multipart_uploads,
    "ListObjectVersions": versioning.list_object_versions,
    "ListObjects": listing.list_objects,
    "ListObjectsV2": listing.list_objects_v2,
    "ListParts": multipart.list_parts,
    "PostObject": post.post_object,
    "PutBucketCors": bucket_cors.put_bucket_cors,
    "PutBucketOwnershipControls": ownership.put_bucket_ownership_controls,
    "PutBucketTagging": bucket_tagging.put_bucket_tagging,
    "PutBucketVersioning": versioning.put_bucket_versioning,
    "PutObject": put.put_object,
    "PutObjectTagging": tagging.put_object_tagging,
    "UploadPart": multipart.upload_part,
    "UploadPartCopy": copy.upload_part_copy,
}
