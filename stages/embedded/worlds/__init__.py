"""Worlds: one file each; what an embedded base model is trained on, its words, its pictures and its conversations."""
