"""Continuous batching: ids in, ids out."""
