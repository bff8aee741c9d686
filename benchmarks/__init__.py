"""How fast nano and its services are: each benchmark prints a table, and tells which machine state it needs."""

import os

os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # read as grpc loads: no note for each connection
