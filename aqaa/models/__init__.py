"""Plain torch networks with upstream tensor names; they know nothing of devices, services or parallelism."""
