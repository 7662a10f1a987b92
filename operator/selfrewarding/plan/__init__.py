"""The planner: what a run needs next, as a pure function of its spec, its status and what was seen.

Imports no kopf, kubernetes, boto3 or clock; nothing below `decide` reads a cluster.
"""
