"""Token ids to representations: T5 and BERT as layered encoders, their checkpoints, tokenizers and memory encoder.

This room knows nothing of storage, jobs or readers. Start at `models.load_model`.
"""
