"""The report of a run: one self-contained HTML page, made of what lies with the artifacts.

`collect` reads a store into one value (`story`), `page` makes HTML of it, with the charts of `charts`.
Must not: know a cluster, a clock or the network; trust a text that a model wrote.
Neighbours: `srr report` and the Report stage are its two callers.
"""
