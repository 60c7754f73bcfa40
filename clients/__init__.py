"""What talks to the service: SDK, workloads, scoring, sweeps, reports.

Knows the service only through `protos`. Start at `clients.sdk`.
"""
