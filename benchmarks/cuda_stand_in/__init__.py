"""NVIDIA's libraries as far as ONNX Runtime's CUDA provider calls them: they note calls and compute nothing."""
