"""Weights that are stored in another form than the plain matrices of Meta: each form as a view that looks plain."""
