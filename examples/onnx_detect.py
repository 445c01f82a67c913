#!/usr/bin/env python3
"""Detects objects with ONNX Runtime, NumPy and Pillow: onnx_detect.py MODEL.onnx IMAGE... > results.json

MODEL.onnx is written by `export.py --format onnx --resize --masks pasted`; the output is predict.py's JSON.
"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

THRESHOLD = 0.5


def compressed_rle(mask: np.ndarray) -> dict:
    """bool (H, W) as COCO's compressed RLE: runs down the columns, as differences in groups of five bits."""
    pixels = mask.T.ravel()
    edges = np.flatnonzero(pixels[1:] != pixels[:-1]) + 1
    runs = np.diff([0, *([0] if pixels[0] else []), *edges, pixels.size]).tolist()
    text = ""
    for index, run in enumerate(runs):
        value, more = run - (runs[index - 2] if index > 2 else 0), True
        while more:
            bits, value = value & 31, value >> 5
            more = value != (-1 if bits & 16 else 0)
            text += chr(48 + bits + 32 * more)
    return {"size": list(mask.shape), "counts": text}


session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
about = json.loads(session.get_modelmeta().custom_metadata_map["mrcnn_plugin"])
if about["image_size"] or about["masks"] == "probabilities" or (about["min_size"] and not about["resizes"]):
    sys.exit("error: export the model with --resize and --masks pasted")
ids = about["metadata"].get("thing_dataset_id_to_contiguous_id") or {}
category_ids = {contiguous: int(name) for name, contiguous in ids.items()}
results = []
for image_id, file in enumerate(sys.argv[2:], 1):
    picture = np.asarray(ImageOps.exif_transpose(Image.open(file)).convert("RGB"))
    given = picture if about["color_order"] == "RGB" else np.ascontiguousarray(picture[:, :, ::-1])
    found = dict(zip(about["outputs"], session.run(about["outputs"], {"image": given})))
    for index in np.flatnonzero(found["scores"] >= THRESHOLD):
        x0, y0, x1, y1 = found["boxes"][index].tolist()
        label = int(found["classes"][index])
        result = {"image_id": image_id, "category_id": category_ids.get(label, label), "file_name": file}
        result |= {"bbox": [x0, y0, x1 - x0, y1 - y0], "score": float(found["scores"][index])}
        if "masks" in found:
            result["segmentation"] = compressed_rle(found["masks"][index])
        if "mask_scores" in found:
            result["mask_score"] = float(found["mask_scores"][index])
        if "keypoints" in found:
            # COCO's coordinates are those of pixels' corners, half a pixel less.
            result["keypoints"] = (found["keypoints"][index] - [0.5, 0.5, 0]).ravel().tolist()
        results.append(result)
print(json.dumps(results))
