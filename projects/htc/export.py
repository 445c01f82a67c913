"""The Hybrid Task Cascade as a function of tensors, for `mrcnn_plugin.export`."""

from __future__ import annotations

from torch import Tensor

from mrcnn_plugin.export import check_pooler, heads_graph, pool
from mrcnn_plugin.projects.cascade_mask_rcnn.export import CascadeMaskHeads

from .roi_heads import SEMANTIC, HTCROIHeads


class HTCHeads(CascadeMaskHeads):
    """The cascade's heads, with features of the semantic branch added to those of every RoI."""

    heads: HTCROIHeads

    def check(self) -> None:
        super().check()
        if self.heads.semantic_head is not None:
            check_pooler(self.heads.semantic_box_pooler, "roi_heads.semantic_box_pooler")
            check_pooler(self.heads.semantic_mask_pooler, "roi_heads.semantic_mask_pooler")

    def prepare(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        if self.heads.semantic_head is None:
            return features
        return {**features, SEMANTIC: self.heads.semantic_head(features)[0]}

    def box_features(self, features: dict[str, Tensor], boxes: Tensor) -> Tensor:
        maps = [features[name] for name in self.heads.box_in_features if name != SEMANTIC]
        x = pool(self.heads.box_pooler, maps, boxes)
        if self.heads.semantic_head is None:
            return x
        return x + pool(self.heads.semantic_box_pooler, [features[SEMANTIC]], boxes)

    def mask_features(self, features: dict[str, Tensor], boxes: Tensor) -> Tensor:
        x = super().mask_features(features, boxes)
        if self.heads.semantic_head is None:
            return x
        return x + pool(self.heads.semantic_mask_pooler, [features[SEMANTIC]], boxes)


heads_graph.register(HTCROIHeads, HTCHeads)
