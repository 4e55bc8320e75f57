"""Waybill: expert-parallel dispatch and combine."""
