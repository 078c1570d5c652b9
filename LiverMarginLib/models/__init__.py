"""Networks, and the bundles in which they travel: description, weights and ONNX graph, checked before use."""
