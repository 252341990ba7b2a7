"""Cameras of a data set estimated anew: what an estimator returns, how it is aligned, written and recorded."""
