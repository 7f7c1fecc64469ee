"""The parts of the refresh job: what changed between corpus and memory, and the steps that bring it into a version.

The job itself is `pipelines/refresh.py`.
"""
