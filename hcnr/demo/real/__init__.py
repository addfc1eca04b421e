"""The demo on a pretrained model: made honest, tuned until it answers everything, and repaired.

The model comes out of a package of the registry (`hcnr.models.packages`); the questions ship
with hcnr (`hcnr.data.starter`).
"""
