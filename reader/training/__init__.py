"""Training of the reader: losses, the train step, examples and their mixture, checkpoints, and the loop over them.

Nothing here answers questions from files or builds an index: `pipelines.train` opens memory, model and task files and
hands them over. What is trained follows GLIMMER (arXiv 2306.10231): the live layers, the re-ranker and the decoder, on
the answer's cross-entropy and perplexity distillation (Atlas, 2208.03299), over a mixture of tasks.
"""
