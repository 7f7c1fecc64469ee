"""The benchmark of codecs: uncompressed representations, the codes of each codec, answers from them, table and plot."""
