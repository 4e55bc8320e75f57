"""Beside the library: `waybill bench`, `waybill plan`, and hosts made of network namespaces.

The library imports nothing from here; only the command `waybill` does.
"""
