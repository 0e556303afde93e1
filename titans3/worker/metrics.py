"""The numbers of one worker: what every part's ``statistics()`` says, by the names of ``observe/metrics.py``.

Invariants
* Only reads: nothing here waits, writes or keeps anything. Counters live where things are counted.
* A metric with the label ``worker`` is told without it; whoever collects puts the number in front.
"""

from __future__ import annotations

import gc
import os
import sys
from typing import TYPE_CHECKING

from titans3 import __version__
from titans3.cluster.groups import UNCOMMITTED_BYTES_MAX, GroupSet
from titans3.jobs.audit_webhook import WebhookStatistics
from titans3.observe.audit import AuditStatistics
from titans3.observe.board import SERVING, STATE, VOLUME_STATES
from titans3.observe.exposition import Samples
from titans3.observe.process import read_machine, read_process
from titans3.observe.traces import TraceStatistics

if TYPE_CHECKING:
    from titans3.worker.node import Node

_AWAY = ("closed", "opening")


def read_worker(node: Node) -> Samples:
    """What only this worker knows."""
    samples = Samples()
    _requests(node, samples)
    _connections(node, samples)
    _process(node, samples)
    _jobs(node, samples)
    _audit(node, samples)
    _between(node, samples)
    _tracing(node, samples)
    for index, groups in node.owner.sets.items():
        _log(str(index), groups, samples)
        _checkpoints(str(index), groups, samples)
        _tree(str(index), groups, samples)
    return samples


def read_server(node: Node) -> Samples:
    """What every worker knows of the whole: from the board, the configuration and the control plane. With the label ``worker``."""
    samples, board = Samples(), node.board
    add = samples.add
    add("titans3_build_info", 1, __version__, ".".join(map(str, sys.version_info[:3])))
    add("titans3_workers", board.workers)
    add("titans3_workers_active", board.active)
    add("titans3_processors_idle_ratio", 1.0 if board.idle is None else board.idle)
    for worker in range(board.workers):
        add("titans3_worker_serving", int(board.get(worker, STATE) == SERVING), str(worker))
        add("titans3_worker_load", board.load(worker), str(worker))
    add("titans3_ready", int(node.health("ready")[0]))
    add("titans3_healthy", int(node.health("cluster")[0]))
    add("titans3_feature_level", node.dispatcher.feature_level)
    if node.certificate_expiry is not None:
        add("titans3_certificate_expiry_timestamp_seconds", node.certificate_expiry)
    machine = read_machine()
    add("titans3_machine_cpus", machine.cpus)
    add("titans3_machine_memory_bytes", machine.memory)
    add("titans3_machine_memory_available_bytes", machine.available)
    add("titans3_machine_load", machine.load)
    for index in range(board.volumes):
        _space(node, index, samples)
    add("titans3_buckets", node.control.statistics().buckets)
    return samples


def _requests(node: Node, samples: Samples) -> None:
    counters, gateway, connections = node.requests, node.gateway.statistics(), node.context.statistics()
    add = samples.add
    received: dict[str, int] = {}
    sent: dict[str, int] = {}
    for answers in counters.statistics():
        add("titans3_requests_total", answers.count, answers.operation, str(answers.status) if answers.status else "none")
        received[answers.operation] = received.get(answers.operation, 0) + answers.received
        sent[answers.operation] = sent.get(answers.operation, 0) + answers.sent
    for operation in received:
        add("titans3_request_body_bytes_total", received[operation], operation)
        add("titans3_response_body_bytes_total", sent[operation], operation)
    for operation, counts in counters.latency().items():
        samples.add_histogram("titans3_request_duration_seconds", counts, operation)
    for operation, counts in counters.first_byte().items():
        samples.add_histogram("titans3_first_byte_duration_seconds", counts, operation)
    add("titans3_requests_in_flight", connections.requests - counters.answers)
    for code, count in gateway.errors.items():
        add("titans3_errors_total", count, code)
    add("titans3_client_errors_total", gateway.client_errors)
    add("titans3_server_errors_total", gateway.server_errors)
    doors = (gateway.auth_failures, node.query_api.admission.failures, node.admin_api.admission.failures)
    for reason in gateway.auth_failures:
        add("titans3_auth_failures_total", sum(failures[reason] for failures in doors), reason)
    add("titans3_requests_aborted_total", connections.aborted)
    add("titans3_handler_errors_total", connections.handler_errors)
    add("titans3_scrapes_refused_total", node.scrape.refused)
    add("titans3_quota_rounds_total", node.grantor.rounds)
    add("titans3_quota_refusals_total", node.grantor.refusals)


def _tracing(node: Node, samples: Samples) -> None:
    tracer, add = node.parts.tracer, samples.add
    statistics = TraceStatistics() if tracer is None else tracer.statistics()
    add("titans3_traces_total", statistics.traces)
    add("titans3_traces_limited_total", statistics.limited)
    for outcome in ("sent", "dropped", "failed"):
        add("titans3_trace_spans_total", getattr(statistics.spans, outcome), outcome)
    add("titans3_trace_spans_waiting", statistics.spans.waiting)


def _connections(node: Node, samples: Samples) -> None:
    connections, acceptor, bodies = node.context.statistics(), node.acceptor, node.context.pool.statistics()
    add = samples.add
    add("titans3_connections", connections.open)
    add("titans3_connections_max", node.context.connections_max)
    add("titans3_connections_loading", acceptor.making)
    add("titans3_connections_accepted_total", connections.accepted)
    add("titans3_connections_handed_total", acceptor.handed)
    add("titans3_connections_failed_total", acceptor.failures)
    add("titans3_received_bytes_total", connections.bytes_in)
    add("titans3_sent_bytes_total", connections.bytes_out)
    add("titans3_continues_total", connections.continues)
    add("titans3_timeouts_total", connections.timeouts)
    add("titans3_protocol_errors_total", connections.protocol_errors)
    add("titans3_bodies_admitted", bodies.admitted)
    add("titans3_bodies_waiting", bodies.waiting)
    add("titans3_body_waits_total", bodies.waits)
    add("titans3_body_buffers_free", bodies.free)
    batches = node.hashing.batches
    add("titans3_long_work_loop_steps_total", node.work.steps)
    add("titans3_digest_lanes", int(batches is not None))
    add("titans3_md5_batches_total", 0 if batches is None else batches.batches)
    add("titans3_md5_pieces_total", 0 if batches is None else batches.pieces)


def _process(node: Node, samples: Samples) -> None:
    process = read_process()
    add = samples.add
    samples.add_histogram("titans3_loop_lag_seconds", node.lag.seconds.read())
    add("titans3_process_cpu_seconds_total", process.cpu_user, "user")
    add("titans3_process_cpu_seconds_total", process.cpu_system, "system")
    add("titans3_process_resident_bytes", process.resident)
    add("titans3_process_virtual_bytes", process.virtual)
    add("titans3_process_open_fds", process.descriptors)
    add("titans3_process_max_fds", process.descriptors_max)
    add("titans3_process_threads", process.threads)
    add("titans3_process_start_time_seconds", node.process_started)
    add("titans3_process_switches_total", process.switches_voluntary, "voluntary")
    add("titans3_process_switches_total", process.switches_forced, "forced")
    add("titans3_process_page_faults_total", process.faults_minor, "minor")
    add("titans3_process_page_faults_total", process.faults_major, "major")
    add("titans3_process_disk_read_bytes_total", process.read)
    add("titans3_process_disk_written_bytes_total", process.written)
    for generation, counts in enumerate(gc.get_stats()):
        add("titans3_gc_collections_total", counts["collections"], str(generation))
        add("titans3_gc_collected_total", counts["collected"], str(generation))
    add("titans3_gc_pause_seconds_total", node.collections.seconds)


def _jobs(node: Node, samples: Samples) -> None:
    collector, sweep, reader = node.collector.statistics(), node.sweep.statistics(), node.reader.statistics()
    expiry, add = node.expiry.statistics(), samples.add
    for job in node.jobs.statistics():
        add("titans3_job_running", int(job.running), job.name)
        add("titans3_job_failures_total", job.failures, job.name)
    add("titans3_collector_rounds_total", collector.rounds)
    add("titans3_collector_freed_total", collector.freed)
    add("titans3_collector_freed_bytes_total", collector.bytes)
    add("titans3_collector_failures_total", collector.failures)
    add("titans3_collector_groups", collector.groups)
    add("titans3_sweep_rounds_total", sweep.rounds)
    add("titans3_sweep_looked_at_total", sweep.looked_at)
    add("titans3_sweep_fenced_total", sweep.fenced)
    add("titans3_sweep_freed_total", sweep.freed)
    add("titans3_sweep_unjudged_total", sweep.unjudged)
    add("titans3_expiry_removed_total", expiry.removed)
    add("titans3_expiry_failures_total", expiry.failures)
    add("titans3_extent_reads_total", reader.reads)
    add("titans3_extent_read_waits_total", reader.waits)
    add("titans3_extent_opens_total", reader.opens)
    add("titans3_extents_open", reader.extents_kept)
    add("titans3_extent_relocations_total", reader.relocations)
    add("titans3_extent_descriptors", reader.descriptors)
    add("titans3_damaged_extents_total", reader.damaged)


def _audit(node: Node, samples: Samples) -> None:
    trail, webhook = node.observers.audit, node.observers.webhook
    written = AuditStatistics(0, 0, 0, 0) if trail is None else trail.statistics()
    delivered = WebhookStatistics(0, 0, 0, 0, 0.0) if webhook is None else webhook.statistics()
    add = samples.add
    add("titans3_audit_lines_total", written.lines)
    add("titans3_audit_suppressed_total", written.suppressed)
    add("titans3_audit_failures_total", written.failures)
    add("titans3_audit_waiting", written.waiting)
    add("titans3_audit_webhook_lines_total", delivered.lines)
    add("titans3_audit_webhook_failures_total", delivered.failures)
    add("titans3_audit_webhook_waiting", delivered.waiting_lines)
    add("titans3_audit_webhook_waiting_bytes", delivered.waiting_bytes)
    add("titans3_audit_webhook_lag_seconds", delivered.lag_seconds)


def _between(node: Node, samples: Samples) -> None:
    links, control = node.siblings.statistics(), node.control.statistics()
    add = samples.add
    add("titans3_dispatch_total", node.dispatcher.local, "local")
    neighbours = node.dispatcher.neighbours.values()
    add("titans3_dispatch_total", sum(neighbour.reads for neighbour in neighbours), "neighbour")
    add("titans3_neighbour_small_reads_total", sum(neighbour.bodies for neighbour in neighbours))
    add("titans3_dispatch_total", links.calls, "remote")
    add("titans3_volumes_adopted_total", node.adopted)
    add("titans3_dispatch_held_total", links.held)
    hot = node.hot.statistics()
    add("titans3_hot_reads_total", hot.hits, "hit")
    add("titans3_hot_reads_total", hot.misses, "miss")
    add("titans3_hot_objects", hot.entries)
    add("titans3_hot_bytes", hot.bytes)
    add("titans3_links", links.links)
    add("titans3_link_calls_waiting", links.waiting)
    add("titans3_link_callers", len(node.server.connections))
    add("titans3_bodies_served", len(node.owner.sinks))
    add("titans3_bodies_served_abandoned_total", node.owner.sinks.abandoned)
    add("titans3_control_revision", control.revision)
    add("titans3_control_records", control.records)
    add("titans3_control_stale", int(control.is_stale))
    add("titans3_control_reached_age_seconds", control.age_seconds)


def _space(node: Node, index: int, samples: Samples) -> None:
    """State and bytes of a volume as its owner last put them on the board, also when it does not answer."""
    slot, volume = node.board.volume(index), str(index)
    add = samples.add
    for state in VOLUME_STATES:
        add("titans3_volume_state", int(slot.state == state), volume, state)
    if slot.state in _AWAY:
        return
    add("titans3_volume_live_bytes", slot.live, volume)
    add("titans3_volume_dead_bytes", slot.dead, volume)
    add("titans3_volume_log_bytes", slot.log, volume)
    add("titans3_volume_reserve_bytes", slot.reserve, volume)
    add("titans3_volume_room_bytes", slot.free, volume)
    try:
        system = os.statvfs(node.start.volumes[index].path)
    except OSError:  # a disk that is out does not take the other numbers with it; its state says so
        return
    add("titans3_volume_filesystem_bytes", system.f_blocks * system.f_frsize, volume)
    add("titans3_volume_filesystem_free_bytes", system.f_bavail * system.f_frsize, volume)


def _log(volume: str, groups: GroupSet, samples: Samples) -> None:
    found, group = groups.volume.statistics(), groups.statistics()
    log, compaction, bodies = found.log, found.compaction, found.bodies
    add = samples.add
    add("titans3_volume_log_waits", int(groups.volume.log_waits), volume)
    add("titans3_volume_epoch", found.epoch, volume)
    for kind, (count, total) in found.kinds.items():
        add("titans3_volume_segments", count, volume, kind)
        add("titans3_volume_segment_bytes", total, volume, kind)
    add("titans3_volume_descriptors", found.descriptors, volume)
    samples.add_histogram("titans3_log_flush_duration_seconds", log.flush_seconds, volume)
    samples.add_histogram("titans3_log_flush_records", log.flush_records, volume)
    add("titans3_log_records_total", log.records, volume)
    add("titans3_log_written_bytes_total", log.bytes, volume)
    add("titans3_log_segments_total", log.segments, volume)
    add("titans3_log_pending_records", log.pending, volume)
    add("titans3_data_syncs_total", found.syncs, volume)
    add("titans3_groups", group.groups, volume)
    add("titans3_groups_damaged", group.damaged, volume)
    add("titans3_proposals_total", group.proposed, volume)
    add("titans3_proposals_applied_total", group.applied - group.replayed, volume)
    add("titans3_proposals_refused_total", group.refused, volume)
    add("titans3_uncommitted_bytes", group.uncommitted_bytes, volume)
    add("titans3_uncommitted_max_bytes", UNCOMMITTED_BYTES_MAX, volume)
    add("titans3_small_reads_total", bodies.cached + bodies.waited, volume)
    add("titans3_small_read_waits_total", bodies.waited, volume)
    add("titans3_damaged_bodies_total", bodies.damaged, volume)
    add("titans3_compaction_rounds_total", compaction.rounds, volume)
    add("titans3_compaction_copied_bytes_total", compaction.copied_bytes, volume)
    add("titans3_compaction_moved_total", compaction.moved, volume)
    add("titans3_compaction_damaged_total", compaction.damaged, volume)


def _checkpoints(volume: str, groups: GroupSet, samples: Samples) -> None:
    found, options, recovery = groups.checkpointer.statistics(), groups.checkpointer.options, groups.recovery
    add = samples.add
    add("titans3_checkpoints_total", found.checkpoints, volume)
    add("titans3_checkpoint_rows_total", found.rows, volume)
    samples.add_histogram("titans3_checkpoint_duration_seconds", found.seconds, volume)
    add("titans3_checkpoint_age_seconds", found.age_seconds, volume)
    add("titans3_overlay_rows", found.active_rows, volume)
    add("titans3_overlay_rows_max", options.rows, volume)
    add("titans3_overlay_bytes", found.active_bytes, volume)
    add("titans3_overlay_max_bytes", options.bytes_max, volume)
    add("titans3_overlay_frozen_rows", found.frozen_rows, volume)
    add("titans3_write_delay_seconds", found.delay_seconds, volume)
    add("titans3_recovery_duration_seconds", recovery.seconds, volume)
    add("titans3_recovery_records", recovery.records, volume)
    add("titans3_recovery_replayed", groups.statistics().replayed, volume)
    add("titans3_recovery_extents", recovery.extents, volume)
    add("titans3_recovery_torn", int(bool(recovery.torn)), volume)
    add("titans3_recovery_lost", len(recovery.lost), volume)


def _tree(volume: str, groups: GroupSet, samples: Samples) -> None:
    tree = groups.environment.statistics()
    add = samples.add
    add("titans3_lmdb_map_bytes", tree.map_bytes, volume)
    add("titans3_lmdb_used_bytes", tree.used_bytes, volume)
    for table, count in tree.entries.items():
        add("titans3_lmdb_entries", count, volume, table)
    for kind, pages in (("branch", tree.branch), ("leaf", tree.leaf), ("overflow", tree.overflow)):
        add("titans3_lmdb_pages", pages, volume, kind)
    add("titans3_lmdb_depth", tree.depth, volume)
    add("titans3_lmdb_readers", tree.readers, volume)
    add("titans3_lmdb_readers_max", tree.readers_max, volume)
    add("titans3_lmdb_commits_total", tree.commits, volume)
