"""Does a self-adapting model follow the light?

    python -m benchmarks.self_adapting --data FOLDER --source FILE --adapted FILE

Models are exported with --self-adapting, parity gate included, and driven by sfda_runtime over frames in stream order:
first the shipped demo model over procedural scenes at many settings (where the defaults were chosen), then, at the
defaults alone, the given models over the frames of FOLDER (images/ and labels/, sorted by name). Labels are read for
scoring alone. Last the latency of one frame.
"""
