"""Frames in: classes, decoding and augmentation, one reader per data set, procedural scenes, loaders."""
