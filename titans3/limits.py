"""Every limit by name. A limit an operator may change names its configuration key in the comment.

Sizes are bytes and counts are items unless the name ends in a unit.
"""

from __future__ import annotations

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB
TIB = 1024 * GIB

# S3 (https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html)
KEY_BYTES_MAX = 1024
OBJECT_PUT_BYTES_MAX = 5 * GIB
OBJECT_BYTES_MAX = 50 * TIB
PART_NUMBER_MAX = 10_000
PART_BYTES_MIN = 5 * MIB
PART_BYTES_MAX = 5 * GIB
LIST_KEYS_MAX = 1000
DELETE_OBJECTS_MAX = 1000
USER_METADATA_BYTES_MAX = 2 * KIB

# HTTP
HEAD_BYTES_MAX = 32 * KIB
HEADERS_MAX = 128
TARGET_BYTES_MAX = 16 * KIB
BODY_XML_BYTES_MAX = 2 * MIB
BODY_BUFFER_BYTES = 2 * MIB + 32 * 90  # with the framing of aws-chunked in signed chunks of 64 KiB: a buffer ends where a chunk does
BODY_BUFFERS_PER_CONNECTION = 2  # one that is filled, one that is written: who takes pieces holds at most one while it waits for the next
BODY_BUFFERS_MAX = 384  # per worker; half as many bodies that need two are received at a time, the others wait
BODY_BUFFERS_KEPT = 32  # free buffers kept for the next body
WHOLE_BYTES_MAX = 1 * MIB  # of a stored body that is here and sent as a whole
PIECE_BYTES = 2 * MIB  # of a larger one, read, verified and sent at a time
FIRST_PIECE_BYTES = 1 * MIB  # the first two, and those after one that took longer than PIECE_SECONDS
PIECE_SECONDS = 0.25
PIECE_BUFFERS_KEPT = 32  # buffers of PIECE_BYTES kept for the next piece, per worker
BODY_COPY_BYTES_MAX = 64 * KIB  # bodies of known length up to this get a buffer of their size
RECEIVE_BUFFER_BYTES = 128 * KIB  # one per worker, shared by all connections that wait for a head
PIPELINED_BYTES_MAX = 128 * KIB
FORM_FIELDS_MAX = 100  # of a POST form, before its file
FORM_FIELDS_BYTES_MAX = 20 * KIB  # their names and values
FORM_PART_HEAD_BYTES_MAX = 8 * KIB  # the header lines of one part
FORM_AROUND_BYTES_MAX = 1 * MIB  # what a form has in front of its first part, and behind its file, is thrown away up to this
FORM_BOUNDARY_BYTES_MAX = 200
CHUNK_LINE_BYTES_MAX = 1 * KIB  # size line of a chunk with its extensions
TRAILER_BYTES_MAX = 8 * KIB
DRAIN_BYTES_MAX = 1 * MIB  # unread body that is read and thrown away to keep the connection
CHUNKS_INLINE_MAX = 64  # of a large body whose framing the loop takes off at once; 16 are a mebibyte as clients send it
LANES_BODY_BYTES_MIN = 256 * KIB  # smaller bodies are hashed alone; nine chunks of 16 KiB fit in
HASH_INLINE_BYTES_MAX = 64 * KIB  # hashed on the loop; more goes to a thread
CONNECTIONS_PER_WORKER_MAX = 20_000  # http.connections_max
HEAD_SECONDS_MAX = 20.0  # http.head_seconds
IDLE_SECONDS_MAX = 90.0  # http.idle_seconds
BODY_SECONDS_MAX = 60.0  # http.body_seconds; without one byte of progress
WRITE_SECONDS_MAX = 60.0  # http.write_seconds; without one byte of progress
DRAIN_SECONDS_MAX = 2.0
CLOCK_SKEW_SECONDS_MAX = 900
PRESIGN_SECONDS_MAX = 604_800
SIGNING_KEYS_MAX = 4096

# Engine
SMALL_BODY_BYTES_MAX = 64 * KIB  # engine.small_body_bytes
CACHE_WRITTEN_SHARE = 16  # of the memory: what was written last stays in the page cache, a sixteenth (engine.cache_written_bytes)
HOT_BYTES = 32 * MIB  # engine.hot_bytes
LOG_SEGMENT_BYTES = 64 * MIB  # engine.log_segment_bytes
DATA_SEGMENT_BYTES = 256 * MIB  # engine.data_segment_bytes
OWN_SEGMENT_BYTES_MIN = 64 * MIB
EXTENT_BYTES_MAX = 1 * GIB
EXTENT_UNKNOWN_BYTES = 16 * MIB
GRANULE_BYTES = 64 * KIB
BLOCK_BYTES = 4 * KIB
BATCH_BYTES_MAX = 8 * MIB
BATCH_RECORDS_MAX = 1000
COMMAND_BYTES_MAX = 4 * MIB

# Metadata
GROUPS = 1024
SYSTEM_GROUP = 0xFFFF_FFFF
BUCKET_SHARDS = 16
OVERLAY_ROWS = 16_000  # engine.checkpoint_rows
OVERLAY_BYTES = 16 * MIB  # engine.checkpoint_bytes
CHECKPOINT_SECONDS = 2.0  # engine.checkpoint_seconds
LISTED_KEPT_MAX = 72_000  # keys whose elements in listings a worker keeps, twice as many at most; some 0.8 KiB each
LISTED_KEPT_MEMORY = 256 * KIB  # of the machine for each of them: all of a worker's are 1/160 of it
DEDUPE_RESULTS = 512
DEDUPE_CHUNK = 32
MANIFEST_INLINE_EXTENTS = 8
MANIFEST_CHUNK_PARTS = 64
DELETE_KEYS_PER_ENTRY = 250

LOCATED_EXTENTS_MAX = 1000  # of one version, told by the admin API

# Metrics
METRICS_BUCKETS = 100  # metrics.buckets_max; buckets with series of their own, the largest first
METRICS_BUCKETS_MAX = 10_000
METRICS_USAGE_BUCKETS_MAX = 20_000  # buckets whose usage a worker tells the one that answers
METRICS_SECONDS_MAX = 2.0  # how long whoever answers waits for its siblings

# Tracing
TRACES_PER_SECOND_MAX = 100  # tracing.traces_max; begun by a worker
TRACE_SPANS_MAX = 200  # of one trace in one process
TRACE_QUEUE_SPANS_MAX = 8192  # that wait to be sent; what comes beyond is dropped and counted
TRACE_STATE_CHARACTERS_MAX = 512

# Audit webhook
WEBHOOK_LINES_MAX = 1_000  # of a request
WEBHOOK_BYTES_MAX = 1 * MIB  # of a request's body
WEBHOOK_SECONDS_MAX = 10.0  # audit.webhook_seconds; from the connection to the answer

# Dispatch
FRAME_BYTES_MAX = 8 * MIB
HOPS_MAX = 3
HOLD_SECONDS_MAX = 5.0
MOVE_SECONDS_MAX = 20.0  # while the supervisor says that an owner moves; clients wait 30 s and longer for an answer
