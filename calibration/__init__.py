"""Statistics to scales: takes a module and token batches, knows no ONNX."""
