"""How fast nano and its engine are: each benchmark prints a table, and tells which machine state it needs."""
