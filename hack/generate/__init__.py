"""Writes what is derived from the types and tables in code: CRDs, RBAC, reference pages. `python -m hack.generate [--check]`."""
