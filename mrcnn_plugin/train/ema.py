"""An exponential moving average of the weights, as a hook."""

from __future__ import annotations

from detectron2.engine import HookBase
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


class WeightAverage(HookBase):
    """Averages parameters and buffers: e_0 = w_0, e_t = decay e_(t-1) + (1 - decay) w_t after step t.

    Buffers, such as BatchNorm's statistics, are averaged as well, so that they belong to the weights.

    Attributes:
        average: what a checkpoint holds of it.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        """
        Args:
            model: the trained one, not wrapped for distributed training.
            decay: in [0, 1).
        """
        self._trained = model
        update = get_ema_multi_avg_fn(decay)
        self.average = AveragedModel(model, multi_avg_fn=update, use_buffers=True).eval()

    @property
    def model(self) -> nn.Module:
        """A copy of the trained model that holds the averages, in eval mode."""
        return self.average.module

    def before_train(self) -> None:
        # The first update takes the weights as they are; the model was copied before they were loaded.
        if not self.average.n_averaged:
            self.average.update_parameters(self._trained)

    def after_step(self) -> None:
        self.average.update_parameters(self._trained)
