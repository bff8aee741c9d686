"""gRPC as every service and client of AQAA speaks it.

For clients (grpcio, protobuf and the standard library are enough): ``status``, ``caller``, ``channel``.
For services (the ``serve`` extra): ``server`` with ``calls``, ``health`` and ``deadline``.
"""
