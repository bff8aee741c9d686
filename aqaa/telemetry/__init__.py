"""Every metric, span name and log field of AQAA: ``metrics``, ``tracing``, ``log``.

What a dashboard, an alert or a runbook names is defined here and nowhere else. Nothing here is global: each
service makes its own registry, tracer and logger, so that several can live in one process.
"""
