"""What goes wrong, and the process that it happens to."""

from tools.dashboards.panels import (
    Dashboard,
    Panel,
    Query,
    active,
    least,
    rate,
    split,
    total,
    worst,
)

FAILED = rate("sluice_grpc_server_handled_total", "method", "code", where='code!="OK"')
UNANSWERED = rate(
    "sluice_request_success_total", "finished_reason", where='finished_reason!~"stop|length"'
)

STATS = (
    Panel(
        "Replicas up", "That Prometheus reaches.", "short",
        (Query('sum(up{job="sluice",instance=~"$instance"})', "up"),), 6, "stat", bad_below=1,
    ),
    Panel(
        "Engine", "1: every replica's engine serves.", "short",
        (Query(least("sluice_engine_up"), "up"),), 6, "stat", bad_below=1,
    ),
    Panel(
        "Engine restarts", "Since the servers started.", "short",
        (Query(total("sluice_engine_restarts_total"), "restarts"),), 6, "stat", bad_above=0,
    ),
    Panel(
        "Leaked blocks", "Anything but 0 is a defect; see the runbook.", "short",
        (Query(worst("sluice_kv_blocks_leaked"), "leaked"),), 6, "stat", bad_above=0,
    ),
)  # fmt: skip
OVER_TIME = (
    Panel(
        "gRPC calls per second", "By status, all methods.", "short",
        (split("sluice_grpc_server_handled_total", "code", "no call"),), stacked=True,
    ),
    Panel(
        "gRPC calls that failed, per second", "By method and status.", "short",
        (
            Query(
                active(FAILED, "code", "no failure"),
                "{{method}} {{code}}",
            ),
        ),
    ),
    Panel(
        "Requests refused per second", "Before they were accepted, by status.", "short",
        (split("sluice_requests_refused_total", "status", "no refusal"),), stacked=True,
    ),
    Panel(
        "Outputs without an answer per second", "Cancelled, overdue, or with broken logits.",
        "short",
        (
            Query(
                active(UNANSWERED, "finished_reason", "all answered"),
                "{{finished_reason}}",
            ),
        ),
        stacked=True,
    ),
    Panel(
        "Failures of the engine",
        "Since the servers started; a request that is the cause is refused.", "short",
        (
            Query(total("sluice_steps_failed_total"), "failed steps"),
            Query(total("sluice_engine_restarts_total"), "restarts"),
            Query(total("sluice_requests_quarantined_total"), "requests found guilty"),
        ),
    ),
    Panel(
        "Preemptions per second", "Outputs without a budget that lost their blocks.", "short",
        (Query(rate("sluice_num_preemptions_total"), "preempted"),),
    ),
    Panel(
        "Late messages per second", "For requests that were over; harmless in small numbers.",
        "short", (Query(rate("sluice_ignored_events_total"), "ignored"),), 6,
    ),
    Panel(
        "Lag of the event loop", "The worst of the last 15 seconds; it delays every stream.", "s",
        (Query(worst("sluice_event_loop_lag_seconds", "instance"), "{{instance}}"),), 6,
    ),
    Panel(
        "CPU of the front process", "Cores; the engine has a process of its own.", "short",
        (Query(rate("process_cpu_seconds_total", "instance"), "{{instance}}"),), 6,
    ),
    Panel(
        "Memory of the front process", "Resident.", "bytes",
        (Query(worst("process_resident_memory_bytes", "instance"), "{{instance}}"),), 6,
    ),
)  # fmt: skip
FAULTS = Dashboard("sluice-faults", "Sluice: faults", "What goes wrong.", STATS + OVER_TIME)
