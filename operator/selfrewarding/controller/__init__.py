"""One reconcile pass: observe, decide, act, write status."""
