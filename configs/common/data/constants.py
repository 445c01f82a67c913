"""Mean and deviation of ImageNet's pixels on the scale 0..255, as its pre-trained weights expect them."""

from omegaconf import OmegaConf

imagenet = OmegaConf.create(
    dict(
        bgr_mean=[103.530, 116.280, 123.675],
        bgr_std=[57.375, 57.120, 58.395],
        rgb_mean=[123.675, 116.280, 103.530],
        rgb_std=[58.395, 57.120, 57.375],
        # Weights from Caffe (MSRA's) have the deviation absorbed in their first convolution.
        caffe_std=[1.0, 1.0, 1.0],
    )
)
