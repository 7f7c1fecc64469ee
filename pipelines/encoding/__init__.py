"""The parts of the encode job, which refresh and repair use too: the plan stage, codec tables, the encode stage.

The job itself is `pipelines/encode.py`.
"""
