"""The vehicle side of sfda-engine: runs an exported bundle with numpy and onnxruntime alone."""
