"""DeepSpeed's own operators that were compiled when the image was built.

Must not compile anything: an image has no compiler. Neighbours: `images/trainer/Dockerfile` compiles them, and
`deepspeed_config.uses_deepspeed_adam` says when one is needed.
"""

import importlib


def use_compiled_cpu_adam() -> bool:
    """Have DeepSpeed step with the AdamW that it was installed with; False if it was installed without.

    DeepSpeed takes an installed operator only on the kind of accelerator that it was built on, and compiles it again
    for any other. But this one runs on the CPU wherever the model is: the code is the same (deepspeed 0.19,
    `op_builder.builder.OpBuilder.load`; `cuda_accelerator` takes the CPU's builder for it). Raises RuntimeError where it was
    built with another version of torch.
    """
    from deepspeed.git_version_info import installed_ops, torch_info
    from deepspeed.ops.op_builder.builder import OpBuilder

    if not installed_ops.get("cpu_adam"):
        return False
    OpBuilder.validate_torch_version(torch_info)
    module = importlib.import_module("deepspeed.ops.adam.cpu_adam_op")
    OpBuilder._loaded_ops["cpu_adam"] = module  # noqa: SLF001 - there is no other way in
    return True
