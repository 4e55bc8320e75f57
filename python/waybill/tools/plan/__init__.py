"""`waybill plan`: what calls of a group over several hosts cost, from formulas (docs/plan.md)."""

from .check import Comparison, compare
from .model import Memory, OperatorPlan, Phase, Plan, plan
from .settings import Layer, Machine
from .traffic import Traffic, count, expected, traffic_of

__all__ = [
    "Comparison",
    "Layer",
    "Machine",
    "Memory",
    "OperatorPlan",
    "Phase",
    "Plan",
    "Traffic",
    "compare",
    "count",
    "expected",
    "plan",
    "traffic_of",
]
