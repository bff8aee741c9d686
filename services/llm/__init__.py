"""The llm service: prompt tokens in, answer tokens out, over gRPC."""
