"""`waybill bench`: the operators beside other ways to move the same rows, in the same processes.

Every round runs every method once, on the same routing and the same rows; a time is that of all
ranks, from the first begin to the last end on one clock; only ratios taken within a round count.
docs/benchmarks/README.md says how to read the results.
"""
