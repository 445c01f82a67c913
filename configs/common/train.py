"""Settings of the training loop, with the names that Detectron2's tools/lazyconfig_train_net.py reads.

`max_iter` is set by the schedule: see `schedule.py`.
"""

import torch

train = dict(
    output_dir="./output",
    init_checkpoint="",
    # On CUDA float16 with scaled gradients; on the CPU bfloat16, of use where it has instructions for that.
    amp=dict(enabled=False),
    # Of weights and maps: "contiguous", "channels_last", or "auto", which is channels_last on the CPU.
    memory_format="auto",
    # On the CPU, in float32: convolutions with frozen norms and activations inside, 3x3 ones by Winograd.
    fused_convolutions=True,
    ddp=dict(broadcast_buffers=False, find_unused_parameters=False, fp16_compression=False),
    checkpointer=dict(period=5000, max_to_keep=100),
    eval_period=5000,
    log_period=20,
    # On the CPU, evaluate a copy that `mrcnn_plugin.optimize` makes: the same results in half the time.
    optimized_evaluation=True,
    device="cuda" if torch.cuda.is_available() else "cpu",
)
