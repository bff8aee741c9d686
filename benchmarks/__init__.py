"""How fast nano and its services are: each benchmark prints a table, and tells what the machine must be."""

import os

os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # read as grpc loads: no note for each connection
