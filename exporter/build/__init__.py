"""Artifact to TensorRT engine: parse, check, build, write. The library is a value, `tensorrt` or `tensorrt_rtx`."""
