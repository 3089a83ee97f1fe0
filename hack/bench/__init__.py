"""Measuring `kube` beside what else there is for controllers in Python: `make bench-kube`.

Read kube.py first (what is run, in which order), then measurements.py (what must hold), then candidates/ (who is measured).
"""
