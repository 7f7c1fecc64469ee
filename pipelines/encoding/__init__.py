"""The parts of the encoding job, which refresh and repair use too: sources to passages, the plan, the encode step.

The job itself is `pipelines/encode.py`.
"""
