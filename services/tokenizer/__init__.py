"""The tokenizer service: PCM in, audio tokens out, over gRPC."""
