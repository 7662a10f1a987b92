"""Where rows come from and what follows from them: a pair's story, a seed row's offspring, a model's card.

Must not: compute or judge anything; know a cluster, a planner or a screen.
Neighbours: reads what stages left through `store.run_results` and `store.row_index`; `srr explain`, `srr trace` and the
Report stage are its callers.
"""
