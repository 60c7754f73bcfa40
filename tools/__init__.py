"""Offline jobs: train the pocket models, calibrate policies, build dashboards."""
