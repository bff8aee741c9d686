"""Messages and service stubs, made from protos/ by `make protos`; nothing here is written by hand."""
