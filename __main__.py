"""`python -m glimmer` is the `glimmer` command."""

from __future__ import annotations

from glimmer.pipelines.cli.program import main

if __name__ == "__main__":
    main()
