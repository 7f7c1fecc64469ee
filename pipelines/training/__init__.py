"""Parts of the training job: what it reports."""
