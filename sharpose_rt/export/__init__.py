"""The networks as files that run without this package: ONNX graphs, and a sheet that says how to use them."""
