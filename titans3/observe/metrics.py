"""Every metric there is: name, kind, labels, what it says and what it is good for. ``docs/metrics.md`` is generated from it.

Invariants
* A name ends in its unit, a counter in ``_total`` behind it. What is not here is never shown; what is here is shown, a test sees to it.
* Every label has few values: workers, volumes, operations, statuses, error codes, buckets up to ``metrics.buckets_max``. ``worker`` is
  always the first label, so that a counter that begins anew at a worker's restart is a series of its own.
"""

from __future__ import annotations

import msgspec

from titans3.observe.histogram import RECORDS, SECONDS

COUNTER, GAUGE, HISTOGRAM = "counter", "gauge", "histogram"
PREFIX = "titans3_"
UNITS = ("seconds", "bytes")


class Metric(msgspec.Struct, frozen=True):
    """A row. ``help`` goes to Prometheus, ``use`` to the page; ``only``: when it has samples, if not always."""

    part: str
    name: str
    kind: str
    labels: tuple[str, ...]
    help: str
    use: str
    only: str = ""
    bounds: tuple[float, ...] = ()

    @property
    def unit(self) -> str:
        """``seconds``, ``bytes`` or empty for a plain number."""
        name = self.name.removesuffix("_total")
        return next((unit for unit in UNITS if name.endswith(f"_{unit}")), "")


_LOADED = "with traffic"
_TLS = "with TLS"
_SHOWN = "with buckets"
_LAG = (0.001, 0.0025, 0.005, 0.01, 0.015, 0.02, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)

# (name, kind, labels, help, use[, only[, bounds]]) by part. Labels are separated by blanks.
_PARTS: tuple[tuple[str, tuple[tuple[object, ...], ...]], ...] = (
    ("Server", (
        ("build_info", GAUGE, "version python", "Version of TitanS3 and of Python; always 1.", "See which version runs where."),
        ("workers", GAUGE, "", "Worker processes that are wanted.", "What `worker_up` should add up to."),
        ("workers_active", GAUGE, "", "Workers that take connections and own volumes.",
         "Fewer than `workers`: other programs use the processors, too."),
        ("processors_idle_ratio", GAUGE, "", "Share of the processors, or of what a container may use, that is idle; 1 until it is known.",
         "Below 0.25 their loops, not threads, hash and write large bodies, if they have three or more."),
        ("worker_up", GAUGE, "worker", "1 if the worker told its numbers in time for this answer.",
         "Alert: a worker is gone or stands still."),
        ("worker_serving", GAUGE, "worker", "1 if the worker accepts connections.", "Tell a restart or drain from a death."),
        ("ready", GAUGE, "", "1 if every key can be reached, as `/health/ready` says.", "Alert: requests are being refused."),
        ("healthy", GAUGE, "", "1 if nothing is wrong anywhere, as `/health/cluster` says.", "May this machine be touched?"),
        ("feature_level", GAUGE, "", "Newest commands that may be proposed.", "After an upgrade: did every worker follow?"),
        ("scrape_duration_seconds", GAUGE, "", "Time it took to collect this answer.", "A slow scrape shows a busy worker."),
        ("scrapes_refused_total", COUNTER, "worker", "Scrapes with a missing or wrong token.", "A wrong token, or somebody guessing."),
        ("certificate_expiry_timestamp_seconds", GAUGE, "", "When the certificate in use ends, in seconds since 1970.",
         "Alert: renew it, then SIGHUP.", _TLS),
    )),
    ("Requests", (
        ("requests_total", COUNTER, "worker operation code", "Answers, by S3 operation and status; `none`: the client left before.",
         "Traffic by kind; share of errors.", _LOADED),
        ("request_duration_seconds", HISTOGRAM, "worker operation", "Time from a request's head to the end of its answer.",
         "Latency by operation.", _LOADED, SECONDS),
        ("first_byte_duration_seconds", HISTOGRAM, "worker operation",
         "Time to the first byte, of operations whose answers are streamed.",
         "What a reader of large objects waits for.", _LOADED, SECONDS),
        ("request_body_bytes_total", COUNTER, "worker operation", "Bytes of bodies received.", "Upload rate by operation.", _LOADED),
        ("response_body_bytes_total", COUNTER, "worker operation", "Bytes of bodies sent.", "Download rate by operation.", _LOADED),
        ("requests_in_flight", GAUGE, "worker", "Requests without an answer yet.", "Queueing: grows when the disk or a sibling is slow."),
        ("errors_total", COUNTER, "worker code", "Errors told to clients, by S3 error code.", "Which error, before reading logs.",
         "with errors"),
        ("client_errors_total", COUNTER, "worker", "Requests answered with an error that is the client's.",
         "Misuse, scanners, broken clients."),
        ("server_errors_total", COUNTER, "worker", "Requests answered with an error that is ours.", "Alert: must stay near 0."),
        ("auth_failures_total", COUNTER, "worker reason", "Signatures that were refused, by reason.", "Guessed keys, skewed clocks."),
        ("requests_aborted_total", COUNTER, "worker", "Clients that left before their answer.",
         "Clients' timeouts are shorter than answers."),
        ("handler_errors_total", COUNTER, "worker", "Answers that broke off, or that no handler could give.",
         "Alert: a bug or a failing disk."),
    )),
    ("Connections", (
        ("connections", GAUGE, "worker", "Open connections.", "Load and balance between workers."),
        ("connections_max", GAUGE, "worker", "`http.connections_max`.", "How near `connections` is to its limit."),
        ("connections_loading", GAUGE, "worker", "Connections accepted and not made yet (TLS shakes hands).", "A flood of handshakes."),
        ("worker_load", GAUGE, "worker", "Connections held and on their way, by which new ones are placed.", "Balance between workers."),
        ("connections_accepted_total", COUNTER, "worker", "Connections made.", "Clients that do not keep connections."),
        ("connections_handed_total", COUNTER, "worker", "Connections handed to a sibling.", "How much balancing there is."),
        ("connections_failed_total", COUNTER, "worker", "Connections that were not made: handshakes, descriptors.", "TLS trouble."),
        ("received_bytes_total", COUNTER, "worker", "Bytes received from clients, heads included.", "Network in."),
        ("sent_bytes_total", COUNTER, "worker", "Bytes sent to clients, heads included.", "Network out."),
        ("continues_total", COUNTER, "worker", "`100 Continue` sent.", "Uploads that asked first."),
        ("timeouts_total", COUNTER, "worker", "Connections that ran into a timeout.", "Slow or dead clients, a bad network."),
        ("protocol_errors_total", COUNTER, "worker", "Bytes that are no HTTP request.", "Scanners, TLS on a plain port."),
        ("bodies_admitted", GAUGE, "worker", "Large bodies being received.", "Parallel uploads."),
        ("bodies_waiting", GAUGE, "worker", "Large bodies that wait for buffers.", "More uploads than buffers."),
        ("body_waits_total", COUNTER, "worker", "Large bodies that had to wait for buffers.", "The same, over time."),
        ("body_buffers_free", GAUGE, "worker", "Free receive buffers of 2 MiB.", "Memory kept for uploads."),
        (
            "digest_lanes", GAUGE, "worker", "1: the digests of large bodies are computed side by side; 0: one after the other.",
            "0 though uploads came: the processor has neither AVX-512 nor AVX2, or the log says why.",
        ),
        ("long_work_loop_steps_total", COUNTER, "worker", "Digests and writes of pieces of large bodies by the loop, not by threads.",
         "It rises while `processors_idle_ratio` is low and uploads are many."),
        ("md5_batches_total", COUNTER, "worker", "Computations of MD5 for several bodies side by side.", "See `md5_pieces_total`."),
        (
            "md5_pieces_total", COUNTER, "worker", "Pieces of bodies (of up to 2 MiB; what a batch takes of them) in them.",
            "Divided by `md5_batches_total`: how many bodies share one, up to 16.",
        ),
    )),
    ("Processes", (
        ("loop_lag_seconds", HISTOGRAM, "worker", "How late the event loop was, sampled ten times a second.",
         "Alert: every request of the worker waits so long.", "", _LAG),
        ("process_cpu_seconds_total", COUNTER, "worker mode", "CPU time, `user` and `system`.", "Saturated workers: near 1 each second."),
        ("process_resident_bytes", GAUGE, "worker", "Resident memory.", "Leaks, page cache pressure."),
        ("process_virtual_bytes", GAUGE, "worker", "Address space; the map of LMDB counts with its whole size.", "For completeness."),
        ("process_open_fds", GAUGE, "worker", "Open descriptors.", "How near they are to their limit."),
        ("process_max_fds", GAUGE, "worker", "Most descriptors the process may have.", "The limit."),
        ("process_threads", GAUGE, "worker", "Threads.", "Should not grow."),
        ("process_start_time_seconds", GAUGE, "worker", "When the process started, in seconds since 1970.",
         "Alert: it restarts again and again."),
        ("process_switches_total", COUNTER, "worker kind", "Context switches, `voluntary` and `forced`.", "`forced`: too few CPUs."),
        ("process_page_faults_total", COUNTER, "worker kind", "Page faults, `minor` and `major`.",
         "`major`: metadata is read from disk."),
        ("process_disk_read_bytes_total", COUNTER, "worker", "Bytes the process had fetched from disks.", "Cold reads."),
        ("process_disk_written_bytes_total", COUNTER, "worker", "Bytes the process had sent to disks.", "Write amplification."),
        ("gc_collections_total", COUNTER, "worker generation", "Runs of Python's garbage collector.", "Many of generation 2: churn."),
        ("gc_collected_total", COUNTER, "worker generation", "Objects that it freed.", "Reference cycles."),
        ("gc_pause_seconds_total", COUNTER, "worker", "Time spent in it.", "Pauses; compare with `loop_lag_seconds`."),
        ("machine_cpus", GAUGE, "", "CPUs the server may use.", "Per-CPU rates."),
        ("machine_memory_bytes", GAUGE, "", "Memory of the machine.", "Sizing."),
        ("machine_memory_available_bytes", GAUGE, "", "Memory that programs could still get.",
         "Alert: first the page cache goes, then the OOM killer comes."),
        ("machine_load", GAUGE, "", "Load average of the last minute.", "CPU and disk queues of the whole machine."),
    )),
    ("Space", (
        ("volume_state", GAUGE, "volume state", "1 for the state the volume is in: closed, opening, ok, full, damaged, failed.",
         "Alert: anything but `ok`."),
        ("volume_live_bytes", GAUGE, "volume", "Bytes of segments that are alive.", "What the data takes."),
        ("volume_dead_bytes", GAUGE, "volume", "Bytes of segments that compaction or an unlink gives back.",
         "Space that will come back."),
        ("volume_log_bytes", GAUGE, "volume", "Log that the next checkpoint frees, and prepared log.", "Is the log being freed?"),
        ("volume_reserve_bytes", GAUGE, "volume", "`engine.reserve_bytes`: what writes leave free.",
         "The line that `room` is counted from."),
        ("volume_room_bytes", GAUGE, "volume", "Bytes free beyond the reserve.", "Alert: writes end at 0."),
        ("volume_filesystem_bytes", GAUGE, "volume", "Size of the file system.", "Share in use."),
        ("volume_filesystem_free_bytes", GAUGE, "volume", "Bytes free to this user on the file system.", "Who else fills it?"),
        ("volume_log_waits", GAUGE, "volume", "1 while the log waits for room: nothing can be written, not even a delete.",
         "Alert: act now."),
        ("volume_epoch", GAUGE, "volume", "How often the volume was opened.", "Restarts, over a long time."),
        ("volume_segments", GAUGE, "volume kind", "Segments: `log`, `data`, `packed`.", "Does the log shrink after checkpoints?"),
        ("volume_segment_bytes", GAUGE, "volume kind", "Bytes of segments, by kind as above.", "Space by kind."),
        ("volume_descriptors", GAUGE, "volume", "Segments held open for reads of small bodies.", "Part of `process_open_fds`."),
    )),
    ("Log", (
        ("log_flush_duration_seconds", HISTOGRAM, "volume", "Write and sync of one batch of the log.",
         "Alert: it is the disk's sync time, and every write waits for it.", "", SECONDS),
        ("log_flush_records", HISTOGRAM, "volume", "Entries that shared one sync.", "Group commit at work: grows with load.",
         "", RECORDS),
        ("log_records_total", COUNTER, "volume", "Entries written.", "Write rate."),
        ("log_written_bytes_total", COUNTER, "volume", "Bytes written to the log.", "Write volume of metadata and small bodies."),
        ("log_segments_total", COUNTER, "volume", "Log segments begun.", "How fast the log turns over."),
        ("log_pending_records", GAUGE, "volume", "Entries that wait for the next flush.", "The disk does not keep up."),
        ("data_syncs_total", COUNTER, "volume", "Syncs of data segments.", "Large writes."),
        ("groups", GAUGE, "volume", "Groups that have a state.", "For completeness."),
        ("groups_damaged", GAUGE, "volume", "Groups that take no write because their log or rows are damaged.",
         "Alert: data needs an operator."),
        ("proposals_total", COUNTER, "volume", "Commands proposed.", "Writes, by volume: is one hot?"),
        ("proposals_applied_total", COUNTER, "volume", "Commands applied.", "Must follow `proposals_total`."),
        ("proposals_refused_total", COUNTER, "volume", "Commands refused at apply: conditions, missing shards.", "Conflicting writers."),
        ("uncommitted_bytes", GAUGE, "volume", "Bytes proposed and not yet applied.", "The queue in front of the disk."),
        ("uncommitted_max_bytes", GAUGE, "volume", "Its limit; beyond it writes are told SlowDown.", "How near the queue is to it."),
    )),
    ("Checkpoints and recovery", (
        ("checkpoints_total", COUNTER, "volume", "Checkpoints committed.", "They happen."),
        ("checkpoint_rows_total", COUNTER, "volume", "Rows that they wrote.", "Metadata write rate."),
        ("checkpoint_duration_seconds", HISTOGRAM, "volume", "From freeze to commit.", "Slow ones let the overlay grow.", "", SECONDS),
        ("checkpoint_age_seconds", GAUGE, "volume", "Time since the last one ended, while there is something to write; else 0.",
         "Alert: replay after a crash gets long."),
        ("overlay_rows", GAUGE, "volume", "Rows applied and not frozen yet.", "How near a checkpoint is."),
        ("overlay_rows_max", GAUGE, "volume", "`engine.checkpoint_rows`.", "The limit; above it writers are paced."),
        ("overlay_bytes", GAUGE, "volume", "Bytes of those rows.", "How near a checkpoint is."),
        ("overlay_max_bytes", GAUGE, "volume", "`engine.checkpoint_bytes`.", "The limit; above it writers are paced."),
        ("overlay_frozen_rows", GAUGE, "volume", "Rows of the checkpoint under way.", "Size of a checkpoint."),
        ("write_delay_seconds", GAUGE, "volume", "Pause that each write makes now because the overlay is over its limit.",
         "Alert: writers outrun checkpoints."),
        ("recovery_duration_seconds", GAUGE, "volume", "Time the last opening took.", "What a crash costs."),
        ("recovery_records", GAUGE, "volume", "Records that it read from the log.", "Length of the replay."),
        ("recovery_replayed", GAUGE, "volume", "Entries that it applied.", "What was not in a checkpoint."),
        ("recovery_extents", GAUGE, "volume", "Extents that it found by walking data segments.", "Large writes since the checkpoint."),
        ("recovery_torn", GAUGE, "volume", "1 if the log ended in a torn batch, which is normal after a crash.", "Was it a crash?"),
        ("recovery_lost", GAUGE, "volume", "Segments that are gone or damaged.", "Alert: data is lost or unproven."),
    )),
    ("LMDB", (
        ("lmdb_map_bytes", GAUGE, "volume", "Size of the map: the most the B-tree can grow to.", "The limit."),
        ("lmdb_used_bytes", GAUGE, "volume", "Bytes of the file in use.", "Metadata size; compare with memory."),
        ("lmdb_entries", GAUGE, "volume table", "Rows, by table: kv, loc, seg, meta.", "Objects, versions, parts and their places."),
        ("lmdb_pages", GAUGE, "volume kind", "Pages of table kv: branch, leaf, overflow.", "Overflow: large rows."),
        ("lmdb_depth", GAUGE, "volume", "Depth of table kv.", "Page reads of a cold look-up."),
        ("lmdb_readers", GAUGE, "volume", "Reader slots in use.", "A reader that stays keeps old pages alive."),
        ("lmdb_readers_max", GAUGE, "volume", "Reader slots.", "The limit."),
        ("lmdb_commits_total", COUNTER, "volume", "Transactions committed by checkpoints.", "Write transactions."),
    )),
    ("Reads", (
        ("small_reads_total", COUNTER, "volume", "Bodies read from the log by its owner.", "Reads of small objects, by volume."),
        ("neighbour_small_reads_total", COUNTER, "worker", "Bodies read from the logs of siblings.", "The rest of such reads."),
        ("small_read_waits_total", COUNTER, "volume", "Of them, those that were not in the page cache.", "Cache misses."),
        ("extent_reads_total", COUNTER, "worker", "Pieces read from data segments.", "Reads of large objects."),
        ("extent_read_waits_total", COUNTER, "worker", "Of them, those that were not in the page cache.", "Cache misses."),
        ("extent_opens_total", COUNTER, "worker", "Extents opened: their table was not in memory.", "Misses of the extent cache."),
        ("extents_open", GAUGE, "worker", "Extents kept open.", "Size of the extent cache."),
        ("extent_relocations_total", COUNTER, "worker", "Extents that compaction had moved before they were read.",
         "Reads that met compaction."),
        ("extent_descriptors", GAUGE, "worker", "Data segments held open for reads.", "Part of `process_open_fds`."),
        ("damaged_bodies_total", COUNTER, "volume", "Small bodies and copies found damaged.", "Alert: the disk returns other bytes."),
        ("damaged_extents_total", COUNTER, "worker", "Extents found damaged on read.", "Alert: the disk returns other bytes."),
    )),
    ("Background", (
        ("compaction_rounds_total", COUNTER, "volume", "Rounds of compaction.", "It runs."),
        ("compaction_copied_bytes_total", COUNTER, "volume", "Bytes that it copied.", "What space costs in disk traffic."),
        ("compaction_moved_total", COUNTER, "volume", "Bodies and extents that it moved.", "Progress."),
        ("compaction_damaged_total", COUNTER, "volume", "Rows it left because they are damaged.", "Run `titans3 tools meta verify`."),
        ("collector_rounds_total", COUNTER, "worker", "Rounds of the collector.", "It runs."),
        ("collector_freed_total", COUNTER, "worker", "Extents that it freed.", "Overwrites and deletes of large objects."),
        ("collector_freed_bytes_total", COUNTER, "worker", "Bytes in them.", "Space on its way back."),
        ("collector_failures_total", COUNTER, "worker", "Frees that were put off.", "A volume that cannot free."),
        ("collector_groups", GAUGE, "worker", "Groups with rows in their queue.", "Alert: does the backlog only grow?"),
        ("sweep_rounds_total", COUNTER, "worker", "Rounds of the sweep.", "It runs."),
        ("sweep_looked_at_total", COUNTER, "worker", "Extents it looked at.", "Progress."),
        ("sweep_fenced_total", COUNTER, "worker", "Extents it asked the groups about.", "Leftovers of crashes."),
        ("sweep_freed_total", COUNTER, "worker", "Extents without a name that it freed.", "Leftovers of crashes."),
        ("sweep_unjudged_total", COUNTER, "worker", "Extents that it left because group or row is damaged.",
         "Run `titans3 tools meta verify`."),
        ("expiry_removed_total", COUNTER, "worker", "Results of completed uploads, kept for a week, that it removed.", "It runs."),
        ("expiry_failures_total", COUNTER, "worker", "Groups that it passed over until its next round.", "Groups that take no write."),
        ("job_running", GAUGE, "worker task", "1 while the job runs.", "A job that ended by an error waits."),
        ("job_failures_total", COUNTER, "worker task", "How often it ended by an error.", "Alert: read the log."),
    )),
    ("Audit trail", (
        ("audit_lines_total", COUNTER, "worker", "Lines written into the audit trail.", "Administration and refusals."),
        ("audit_suppressed_total", COUNTER, "worker", "Refusals that were counted instead of written.", "Somebody hammers the door."),
        ("audit_failures_total", COUNTER, "worker", "Writes of the trail that failed.", "Alert: what was done is in memory only."),
        ("audit_waiting", GAUGE, "worker", "Events that are not written yet.", "What a crash would take."),
        ("audit_webhook_lines_total", COUNTER, "worker", "Lines the webhook's receiver took.", "It is delivered."),
        ("audit_webhook_failures_total", COUNTER, "worker", "Deliveries that failed; they are tried again.", "Is the receiver well?"),
        ("audit_webhook_waiting", GAUGE, "worker", "Lines that wait for the receiver.", "How much it has to catch up on."),
        ("audit_webhook_waiting_bytes", GAUGE, "worker", "Bytes of them.", "How much that is."),
        ("audit_webhook_lag_seconds", GAUGE, "worker", "Age of the oldest line that waits; 0 if none does.",
         "Alert: the receiver does not see what happens."),
    )),
    ("Between workers", (
        (
            "dispatch_total", COUNTER, "worker where",
            "Calls to owners of groups, `local` and `remote`; `neighbour`: reads of a sibling's volume without a call.",
            "Share of requests that hop.",
        ),
        (
            "hot_reads_total", COUNTER, "worker result", "Objects looked for among those in memory: `hit`, `miss`.",
            "Whether `engine.hot_bytes` pays.",
        ),
        ("hot_objects", GAUGE, "worker", "Objects in memory.", "With their bodies, if these are small."),
        ("hot_bytes", GAUGE, "worker", "Bytes of objects in memory.", "Bounded by `engine.hot_bytes`."),
        ("volumes_adopted_total", COUNTER, "worker", "Volumes that another worker gave to this one.", "How often that changes."),
        ("dispatch_held_total", COUNTER, "worker", "Calls that waited for an owner.", "Restarts; a sibling that is gone."),
        ("links", GAUGE, "worker", "Links to siblings that are up.", "They are made when first needed; fewer later: some were lost."),
        ("link_calls_waiting", GAUGE, "worker", "Calls to siblings without an answer.", "Queueing at a sibling."),
        ("link_callers", GAUGE, "worker", "Connections of siblings to this worker.", "The other end of `links`."),
        ("bodies_served", GAUGE, "worker", "Large bodies that siblings stream here.", "Workers without a volume."),
        ("bodies_served_abandoned_total", COUNTER, "worker", "Of them, those that broke off.", "Uploads that were cut."),
    )),
    ("Tracing", (
        ("traces_total", COUNTER, "worker", "Requests that were traced.", "What `tracing.ratio` comes to."),
        ("traces_limited_total", COUNTER, "worker", "Requests that were not traced because of `tracing.traces_max`.",
         "Somebody asks for more traces than there may be."),
        ("trace_spans_total", COUNTER, "worker outcome",
         "Spans that were `sent` to the collector, `dropped` because too many waited, or `failed` in sending.",
         "Anything but `sent`: traces have holes."),
        ("trace_spans_waiting", GAUGE, "worker", "Spans that wait to be sent.", "Near 8192 the collector is too slow."),
    )),
    ("Control plane", (
        ("control_revision", GAUGE, "worker", "Revision that the worker's cache has.", "All workers should have the same."),
        ("control_records", GAUGE, "worker", "Records in the cache.", "Buckets, users, configurations: memory of each worker."),
        ("control_stale", GAUGE, "worker", "1 if the owner was not reached for 10 s: requests are refused.",
         "Alert: the worker is cut off."),
        ("control_reached_age_seconds", GAUGE, "worker", "Time since the owner was last reached; 0 on the owner.",
         "How near `control_stale` is."),
    )),
    ("Buckets", (
        ("buckets", GAUGE, "", "Buckets.", "How many there are."),
        ("bucket_usage_age_seconds", GAUGE, "", "Age of the oldest count below.", "How fresh the usage is.", _SHOWN),
        ("bucket_keys", GAUGE, "bucket", "Keys, those behind a delete marker among them.", "Growth.", _SHOWN),
        ("bucket_versions", GAUGE, "bucket", "Versions, the newest ones among them.", "What versioning keeps.", _SHOWN),
        ("bucket_delete_markers", GAUGE, "bucket", "Delete markers.", "Listings slow down with many.", _SHOWN),
        ("bucket_stored_bytes", GAUGE, "bucket", "Bytes of all versions.", "Bill, quota, growth.", _SHOWN),
        ("bucket_uploads", GAUGE, "bucket", "Multipart uploads that are open.", "Uploads that nobody finishes.", _SHOWN),
        ("bucket_upload_bytes", GAUGE, "bucket", "Bytes of their parts.", "Space that nobody sees in listings.", _SHOWN),
        ("bucket_quota_bytes", GAUGE, "bucket", "Bytes it may hold, stored and in uploads; 0: any number.", "How much is left.", _SHOWN),
        ("quota_rounds_total", COUNTER, "worker", "Rounds of granting bytes to shards.", "Many: a bucket is nearly full, or full."),
        ("quota_refusals_total", COUNTER, "worker", "Writes that a full bucket refused in them.", "Who writes on."),
        ("bucket_requests_total", COUNTER, "worker bucket", "Requests answered.", "Who is loud.", _SHOWN),
        ("bucket_client_errors_total", COUNTER, "worker bucket", "Of them, answered 4xx.", "A broken client, a wrong policy.", _SHOWN),
        ("bucket_server_errors_total", COUNTER, "worker bucket", "Of them, answered 5xx.", "Who suffers.", _SHOWN),
        ("bucket_received_bytes_total", COUNTER, "worker bucket", "Bytes of bodies received.", "Upload rate.", _SHOWN),
        ("bucket_sent_bytes_total", COUNTER, "worker bucket", "Bytes of bodies sent.", "Download rate.", _SHOWN),
    )),
)  # fmt: skip


def _metric(part: str, row: tuple[object, ...]) -> Metric:
    name, kind, labels, text, use, *rest = row
    return msgspec.convert(
        {
            "part": part, "name": f"{PREFIX}{name}", "kind": kind, "labels": tuple(str(labels).split()), "help": text, "use": use,
            "only": rest[0] if rest else "", "bounds": rest[1] if len(rest) > 1 else (),
        },
        Metric,
    )  # fmt: skip


METRICS: dict[str, Metric] = {metric.name: metric for part, rows in _PARTS for metric in (_metric(part, row) for row in rows)}
