"""The parts of the answering job: batches made ready, the device's stages, ranges and Beam shards of them, the report.

The job itself is `pipelines/answer.py`.
"""
