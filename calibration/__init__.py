"""Statistics to scales: takes modules and their inputs, knows no ONNX."""
