"""Faces beside a gallery: enrol, remove, show, verify, identify, cluster."""
