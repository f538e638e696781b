"""The torch side of deployment: a run folder in, a bundle of ONNX files that proved their parity out."""
