"""Encoder families: all that Glimmer knows of T5, of BERT, and of what a plug-in adds; one module each.

A new family is one module with a subclass of `encoder_family.EncoderFamily`, registered by `register_family` (module
`family_registry`) or named by a distribution's entry point in the group `glimmer.encoder_families`. Nothing else asks
which family a model is of.
"""
