"""The custom resource `SelfRewardingRun`: its types, conditions, labels, presets and CRD."""
