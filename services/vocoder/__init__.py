"""The vocoder service: answer tokens in, PCM out, over gRPC."""
