"""Answering questions with a reader: the first-stage index, candidate passages, batches and the device's stages."""
