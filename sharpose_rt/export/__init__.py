"""Exports the networks to files that run without this package: ONNX graphs, and a sheet on how to use them."""
