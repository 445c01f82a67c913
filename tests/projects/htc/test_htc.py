"""Hybrid Task Cascade by hand: who sees which boxes and features, the semantic loss, the stages' weights."""

import math

import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.layers import ShapeSpec
from detectron2.structures import Boxes, ImageList, Instances
from helpers.training import synthetic_inputs

from mrcnn_plugin.projects import htc
from mrcnn_plugin.projects.htc import FusedSemanticHead, HTCMaskHead, LabelledImageList

CONFIGS = htc.__path__[0] + "/configs"
NUM_CLASSES = 4


@pytest.fixture(autouse=True)
def _events(event_storage):
    """Losses log to the storage."""


def small_model(*overrides):
    cfg = LazyConfig.load(f"{CONFIGS}/Shapes/htc_R_18_FPN.py")
    cfg.model.proposal_generator.update(pre_nms_topk=(100, 100), post_nms_topk=(30, 20))
    cfg.model.roi_heads.batch_size_per_image = 16
    for predictor in cfg.model.roi_heads.box_predictors:
        predictor.update(test_score_thresh=0.0, test_topk_per_image=5)
    LazyConfig.apply_overrides(cfg, list(overrides))
    torch.manual_seed(0)
    return instantiate(cfg.model)


WITHOUT_SEMANTIC = ("model.roi_heads.semantic_head=null",)


@pytest.fixture
def labelled_inputs():
    inputs = synthetic_inputs([(64, 96), (64, 64)], num_classes=NUM_CLASSES)
    for image in inputs:
        image["sem_seg"] = torch.randint(0, 5, image["image"].shape[1:])
    return inputs


def refine_identity(head):
    """Makes of the 3x3 convolutions the identity for positive features."""
    for layer in head.conv_norm_relus:
        torch.nn.init.dirac_(layer.weight)


def mask_head(info_flow=True, channels=2):
    return HTCMaskHead(
        ShapeSpec(channels=channels, height=2, width=2),
        num_classes=3,
        conv_dims=[channels] * 3,
        info_flow=info_flow,
    )


class TestMaskInformationFlow:
    def test_the_head_before_is_added_through_a_convolution(self):
        """m_t = M_t(x + ReLU(W m_{t-1})), with M_t the identity."""
        head = mask_head()
        refine_identity(head)
        head.flow.weight.data = torch.tensor([[1.0, 2.0], [0.0, -1.0]])[:, :, None, None]
        x = torch.tensor([10.0, 20.0])[None, :, None, None].expand(1, 2, 2, 2)
        previous = torch.tensor([3.0, 4.0])[None, :, None, None].expand(1, 2, 2, 2)
        # 10 + (3 + 8), 20 + max(-4, 0).
        assert head.refine(x, previous)[0, :, 0, 0].tolist() == [21.0, 20.0]
        assert torch.equal(head.refine(x), x)

    def test_the_third_stage_hears_the_second_which_hears_the_first(self):
        heads = small_model(*WITHOUT_SEMANTIC).roi_heads
        for head in heads.mask_heads:
            refine_identity(head)
            if head.info_flow:
                torch.nn.init.dirac_(head.flow.weight)
        x = torch.full((1, 64, 14, 14), 1.0)
        # x, x + x, x + 2x.
        assert [refined.unique().tolist() for refined in heads.mask_head_inputs(x, 3)] == [[1], [2], [3]]
        heads.mask_info_flow = False
        assert [refined.unique().tolist() for refined in heads.mask_head_inputs(x, 3)] == [[1], [1], [1]]

    def test_later_losses_reach_earlier_heads(self):
        heads = small_model(*WITHOUT_SEMANTIC).roi_heads
        heads.mask_head_inputs(torch.rand(1, 64, 14, 14), 3)[2].sum().backward()
        assert heads.mask_heads[0].mask_fcn1.weight.grad.abs().sum() > 0
        assert heads.mask_heads[0].deconv.weight.grad is None

    def test_the_switch_leaves_no_parameter_unused(self, labelled_inputs):
        model = small_model("model.roi_heads.mask_info_flow=False")
        assert not [name for name, _ in model.named_parameters() if "flow" in name]
        sum(model(labelled_inputs).values()).backward()
        assert all(p.grad is not None for p in model.parameters())

    def test_heads_that_cannot_listen_are_an_error(self):
        with pytest.raises(ValueError, match="mask_head: all heads but the first must have info_flow=True"):
            small_model("model.roi_heads.mask_head.2.info_flow=False")


class TestSemanticLoss:
    def head(self, **kwargs):
        return FusedSemanticHead(
            in_features=["p3", "p4"], in_channels=4, num_classes=3, fused_feature="p3", num_convs=1, **kwargs
        )

    def test_cross_entropy_at_the_centres_of_labelled_cells(self):
        # A map of 1 x 2 cells of 4 x 4 pixels; their centres are the pixels (2, 2) and (2, 6).
        logits = torch.tensor([[2.0, 0.0], [0.0, 1.0], [0.0, 0.0]])[None, :, None, :]
        sem_seg = torch.full((1, 4, 8), 2)
        sem_seg[0, 2, 2], sem_seg[0, 2, 6] = 0, 1
        first = math.log(math.exp(2) + 2) - 2
        second = math.log(math.exp(1) + 2) - 1
        losses = self.head().losses(logits, sem_seg)
        assert losses["loss_semantic"].item() == pytest.approx((first + second) / 2, abs=1e-6)
        sem_seg[0, 2, 6] = 255
        losses = self.head(loss_weight=0.2).losses(logits, sem_seg)
        assert losses["loss_semantic"].item() == pytest.approx(0.2 * first, abs=1e-6)

    @pytest.mark.parametrize("sem_seg", [None, torch.full((1, 4, 8), 255)])
    def test_without_labels_it_is_zero_and_connected(self, sem_seg):
        logits = torch.rand(1, 3, 1, 2, requires_grad=True)
        loss = self.head().losses(logits, sem_seg)["loss_semantic"]
        loss.backward()
        assert loss.item() == 0
        assert logits.grad.abs().sum() == 0

    def test_wrong_labels_are_named(self):
        with pytest.raises(ValueError, match=r"sem_seg must hold classes below num_classes=3 or 255, got 7"):
            self.head().losses(torch.zeros(1, 3, 1, 2), torch.full((1, 4, 8), 7))
        with pytest.raises(ValueError, match=r"sem_seg must have a multiple of .*\(1, 2\), got \(4, 7\)"):
            self.head().losses(torch.zeros(1, 3, 1, 2), torch.zeros(1, 4, 7, dtype=torch.int64))
        with pytest.raises(ValueError, match=r"fused_feature must be one of \['p3'\], got 'p2'"):
            FusedSemanticHead(in_features=["p3"], in_channels=4, num_classes=3, fused_feature="p2")

    def test_levels_are_summed_at_the_size_of_one(self):
        head = self.head()
        for conv in [*head.lateral.values(), *head.convs, head.embedding]:
            torch.nn.init.dirac_(conv.weight)
        features = {"p3": torch.full((1, 4, 4, 6), 2.0), "p4": torch.full((1, 4, 2, 3), 5.0)}
        embedding, logits = head(features)
        assert embedding.shape == (1, 4, 4, 6)
        assert embedding.unique().tolist() == [7.0]
        assert logits.shape == (1, 3, 4, 6)


class TestSemanticContext:
    def test_it_is_added_to_box_and_mask_features(self):
        heads = small_model().eval().roi_heads
        features = {
            f"p{level}": torch.full((1, 64, 256 >> level, 256 >> level), 1.0) for level in range(2, 7)
        }
        features["semantic"] = torch.full((1, 64, 64, 64), 0.25)
        boxes = Boxes(torch.tensor([[20.0, 20.0, 60.0, 60.0]]))
        assert heads.mask_features(features, [boxes]).unique().tolist() == [1.25]
        seen = []
        heads.box_head[1].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        maps = [features[name] for name in heads.box_in_features]
        heads._run_stage(maps, [Instances((256, 256), proposal_boxes=boxes)], 1)
        assert seen[0].unique().tolist() == [1.25]

    def test_known_boxes_get_the_same_masks(self, labelled_inputs):
        model = small_model().eval()
        with torch.no_grad():
            found = model.inference(labelled_inputs, do_postprocess=False)
            boxes = [
                Instances(i.image_size, pred_boxes=i.pred_boxes, pred_classes=i.pred_classes) for i in found
            ]
            again = model.inference(labelled_inputs, boxes, do_postprocess=False)
        assert len(found) == len(labelled_inputs)
        for one, other in zip(found, again, strict=True):
            torch.testing.assert_close(one.pred_masks, other.pred_masks)

    def test_labels_are_padded_with_the_ignored_value(self, labelled_inputs):
        model = small_model()
        del labelled_inputs[1]["sem_seg"]
        images = model.preprocess_image(labelled_inputs)
        assert isinstance(images, LabelledImageList)
        assert torch.equal(images.sem_seg[0, :64, :96], labelled_inputs[0]["sem_seg"])
        assert images.sem_seg[1].unique().tolist() == [255]
        assert images.sem_seg.shape == (2, *images.tensor.shape[-2:])
        assert model.eval().preprocess_image(labelled_inputs).sem_seg is None

    def test_labels_of_another_size_are_an_error(self, labelled_inputs):
        labelled_inputs[0]["sem_seg"] = torch.zeros(64, 95, dtype=torch.int64)
        with pytest.raises(ValueError, match=r"size of its image \(64, 96\), got \(64, 95\)"):
            small_model().preprocess_image(labelled_inputs)


class TestStages:
    def run(self, model, interleaved):
        """The boxes that the mask branch of each stage is trained on, with losses that are all 1."""
        heads = model.roi_heads
        heads.interleaved = interleaved
        seen = []

        def mask_losses(features, proposals, targets, stage):
            seen.append(proposals[0].proposal_boxes.tensor[0].tolist())
            return {f"loss_mask_stage{stage}": torch.tensor(1.0)}

        heads.mask_losses = mask_losses
        heads.box_losses = lambda predictions, proposals, stage: {f"loss_cls_stage{stage}": torch.tensor(1.0)}
        # Half of the box's width to the right in every stage.
        heads._run_stage = lambda features, proposals, stage: (
            torch.zeros(1, 5),
            torch.tensor([[(stage + 1) * 5.0, 0, 0, 0]]),
        )
        features = {name: torch.zeros(1, 64, 8, 8) for name in ("p2", "p3", "p4", "p5", "semantic")}
        proposals = Instances((100, 100), proposal_boxes=Boxes(torch.tensor([[0.0, 0.0, 20.0, 20.0]])))
        targets = Instances((100, 100), gt_boxes=Boxes(torch.tensor([[0.0, 0.0, 20.0, 20.0]])))
        targets.gt_classes = torch.tensor([1])
        return seen, heads.stage_losses(features, [proposals], [targets])

    def test_interleaved_masks_see_the_boxes_of_their_own_stage(self):
        seen, _ = self.run(small_model(), interleaved=True)
        assert [box[0] for box in seen] == [10, 20, 30]

    def test_in_parallel_they_see_those_that_the_stage_was_given(self):
        seen, _ = self.run(small_model(), interleaved=False)
        assert [box[0] for box in seen] == [0, 10, 20]

    def test_weights_of_the_stages(self):
        _, losses = self.run(small_model(), interleaved=True)
        weights = (1.0, 0.5, 0.25)
        assert {name: loss.item() for name, loss in losses.items()} == {
            f"loss_{kind}_stage{stage}": weight
            for kind in ("cls", "mask")
            for stage, weight in enumerate(weights)
        }

    def test_one_weight_a_stage(self):
        with pytest.raises(
            ValueError, match=r"stage_loss_weights must hold 3 numbers, one per stage, got \[1\]"
        ):
            small_model("model.roi_heads.stage_loss_weights=[1]")


@pytest.mark.parametrize(
    "switches",
    [
        (),
        ("model.roi_heads.interleaved=False",),
        WITHOUT_SEMANTIC,
        ("model.roi_heads.interleaved=False", "model.roi_heads.mask_info_flow=False", *WITHOUT_SEMANTIC),
    ],
    ids=["all", "parallel", "without semantic", "none"],
)
def test_every_switch_trains_and_predicts(switches, labelled_inputs):
    model = small_model(*switches)
    losses = model(labelled_inputs)
    expected = {f"loss_{kind}_stage{t}" for kind in ("cls", "box_reg", "mask") for t in range(3)}
    expected |= {"loss_rpn_cls", "loss_rpn_loc"}
    assert set(losses) == expected | (set() if WITHOUT_SEMANTIC[0] in switches else {"loss_semantic"})
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    with torch.no_grad():
        results = model.eval()(labelled_inputs)
    assert results[0]["instances"].pred_masks.shape == (5, 64, 96)


@pytest.mark.parametrize("without", ["instances", "masks", "labels"])
def test_trains_without(without, labelled_inputs):
    model = small_model()
    for image in labelled_inputs:
        if without == "instances":
            image["instances"] = image["instances"][:0]
        elif without == "masks":
            image["instances"].remove("gt_masks")
        else:
            del image["sem_seg"]
    losses = model(labelled_inputs)
    sum(losses.values()).backward()
    assert all(torch.isfinite(loss) for loss in losses.values())
    zero = {"loss_semantic"} if without == "labels" else {f"loss_mask_stage{t}" for t in range(3)}
    assert {n for n, loss in losses.items() if loss.item() == 0 and ("mask" in n or "semantic" in n)} == zero


def test_plain_images_train_without_labels(labelled_inputs):
    """The RoI heads in another meta architecture, which hands them an ImageList."""
    heads = small_model().roi_heads
    features = {f"p{level}": torch.rand(1, 64, 64 >> level, 64 >> level) for level in range(2, 7)}
    proposals = Instances((64, 64), proposal_boxes=Boxes(torch.tensor([[0.0, 0.0, 20.0, 20.0]])))
    proposals.objectness_logits = torch.zeros(1)
    targets = labelled_inputs[1]["instances"]
    images = ImageList(torch.zeros(1, 3, 64, 64), [(64, 64)])
    _, losses = heads(images, features, [proposals], [targets])
    assert losses["loss_semantic"].item() == 0


def test_yaml_is_refused_with_the_way_out():
    from detectron2.config import get_cfg

    with pytest.raises(NotImplementedError, match="HTCROIHeads is built from a LazyConfig"):
        htc.HTCROIHeads(get_cfg(), {})
