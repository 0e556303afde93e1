"""The cases of the gate in the order of its table, and what each one is. Loads nothing of the project."""

from __future__ import annotations

TITLES = {
    "head_full": "Head parsed in full, SigV4",
    "head_shape": "Head like one before, SigV4",
    "head_presigned": "Head with a presigned query",
    "chunks_signed": "1 MiB in signed chunks",
    "chunks_unsigned": "1 MiB in chunks with a trailer",
    "policy": "Decision over 100 statements",
    "view_get": "View: get of a stored row",
    "view_scan": "View: scan of 80 stored rows",
    "list_page": "Page of 1,000 from 16 shards",
    "view_scan_overlay": "View: scan with an overlay",
    "get": "GET 4 KiB from memory",
    "get_file": "GET 4 KiB from the log",
    "head": "HEAD",
    "put": "PUT 4 KiB",
    "put_chunks": "PUT 4 KiB in a signed chunk",
    "delete": "DELETE",
    "delete_post": "DeleteObjects of one key",
    "list": "LIST 1,000",
    "commit": "Log append, flush, apply",
}
