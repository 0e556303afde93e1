"""Which function answers which operation: the list of what is built.

Invariants
* Names are those of the operation table; a name that is not here answers 501.
"""

from __future__ import annotations

from titans3.s3 import (
    attributes,
    bucket,
    complete,
    copy,
    delete,
    get,
    listing,
    multipart,
    post,
    put,
    service,
    tagging,
    versioning,
)
from titans3.s3.call import Handler

HANDLERS: dict[str, Handler] = {
    "AbortMultipartUpload": multipart.abort_multipart_upload,
    "CompleteMultipartUpload": complete.complete_multipart_upload,
    "CopyObject": copy.copy_object,
    "CreateBucket": bucket.create_bucket,
    "CreateMultipartUpload": multipart.create_multipart_upload,
    "DeleteBucket": bucket.delete_bucket,
    "DeleteObject": delete.delete_object,
    "DeleteObjects": delete.delete_objects,
    "GetBucketLocation": bucket.get_bucket_location,
    "DeleteObjectTagging": tagging.delete_object_tagging,
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
    "PutBucketVersioning": versioning.put_bucket_versioning,
    "PutObject": put.put_object,
    "PutObjectTagging": tagging.put_object_tagging,
    "UploadPart": multipart.upload_part,
    "UploadPartCopy": copy.upload_part_copy,
}
