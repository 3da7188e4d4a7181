"""ONNX graphs to ONNX graphs: the custom operator, the passes and the reader that checks a finished graph."""
