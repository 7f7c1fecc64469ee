"""The plan stage of encode and refresh jobs: sources into passages with tokens and ids, numbered row by row.

Ranges of the sources are planned by themselves, by any number of workers (`range_plan`, run as a Beam step by
`plan_step`); each becomes a part in the job's directory (`plan_parts`), complete or absent. The driver then merges what
the parts say (`plan_sources`): prefix sums give every part its first row, articles that several ranges hold are found
and dropped, rejected records come into one file. The encode step puts text shards together from the parts
(`planned_text`). Rows, text and rejected records are the same whatever the ranges and the workers.
"""
