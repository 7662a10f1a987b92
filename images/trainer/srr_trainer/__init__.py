"""Stage programs that train: SFT and DPO with TRL and DeepSpeed."""
