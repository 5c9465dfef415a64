"""Decoding on a machine that is not ours alone."""
