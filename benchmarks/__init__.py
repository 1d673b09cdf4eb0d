"""Measurements beside other libraries; none is a part of the pipeline."""
