"""Data that the package draws itself: shapes, stick figures and street scenes, in COCO's and Cityscapes' layouts."""
