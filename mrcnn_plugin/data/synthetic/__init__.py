"""Data that the package draws: shapes, stick figures and street scenes, in COCO's and Cityscapes' layouts."""
