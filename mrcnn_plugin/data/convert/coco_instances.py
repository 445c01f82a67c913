"""One annotation of a COCO JSON: checked, completed, and turned upright with its picture."""

from __future__ import annotations

import numpy as np

from mrcnn_plugin.data.coco_summary import is_finite, short
from mrcnn_plugin.errors import DatasetError

from .annotation_set import EMPTY_MASKS, AnnotationSet, Options
from .masks import decode_segmentation, reaches_far, segment_mask, segment_polygons
from .pictures import Picture, Turn, times

IDENTIFIERS = ("id", "image_id", "category_id", "ignore")


class Instance:
    """An entry of "annotations". where: what names it; turn: what makes it upright, None if it is."""

    def __init__(
        self,
        entry: dict,
        where: str,
        picture: Picture,
        turn: Turn | None,
        found: AnnotationSet,
        options: Options,
    ) -> None:
        self.entry, self.where, self.picture, self.turn = entry, where, picture, turn
        self.found, self.options = found, options
        self.crowd = bool(entry.get("iscrowd")) or bool(entry.get("ignore"))
        # The frame that the file's numbers are in.
        self.frame = picture.size if turn is None else picture.stored_size

    def error(self, message: str) -> DatasetError:
        return DatasetError(f"{self.where}: {message}")

    def fields(self) -> dict | None:
        """COCO's fields but the ids; None, with its name in `skipped`, for one without mask and box."""
        result = {key: value for key, value in self.entry.items() if key not in IDENTIFIERS}
        if self.entry.get("ignore"):
            self.found.notes['annotations with "ignore", written as "iscrowd": 1'].append(self.where)
        result |= {"iscrowd": int(self.crowd)} | self.keypoints()
        box = self.box()
        segmentation = self.segmentation(result.pop("segmentation", None))
        if segmentation is None and box is not None and self.options.boxes:
            x, y, w, h = box
            segmentation = [[x, y, x + w, y, x + w, y + h, x, y + h]]
        measured = None if segmentation is None else self.measured(segmentation)
        if measured is not None:
            given = {} if self.turn else self.given(box)
            return result | measured | given
        if box is None:
            reason = "annotations without a mask and without a box that has an area"
            self.found.skipped[reason if segmentation is None else EMPTY_MASKS].append(self.where)
            return None
        if segmentation is not None:
            self.found.notes["masks that cover no pixel, left out of annotations that have a box"].append(
                self.where
            )
        x, y, w, h = box = self.turned_box(box)
        return result | {"bbox": box, "area": self.entry.get("area") or w * h}

    def given(self, box: list[float] | None) -> dict:
        """The file's own box and area where they are usable."""
        area = self.entry.get("area")
        result = {} if box is None else {"bbox": box}
        return result | ({"area": area} if is_finite(area) and area > 0 else {})

    def box(self) -> list[float] | None:
        """bbox in the file's frame, None where it is missing or has no area."""
        box = self.entry.get("bbox")
        if box is None or box == []:
            return None
        if not (isinstance(box, list) and len(box) == 4 and all(map(is_finite, box))):
            raise self.error(f"has the bbox {short(box)}, expected [x, y, width, height]; correct it")
        return box if box[2] > 0 and box[3] > 0 else None

    def turned_box(self, box: list[float]) -> list[float]:
        if self.turn is None:
            return box
        x, y, w, h = box
        ends = self.turn.points(np.array([[x, y], [x + w, y + h]], np.float64))
        (x0, y0), (x1, y1) = ends.min(axis=0).tolist(), ends.max(axis=0).tolist()
        return [x0, y0, x1 - x0, y1 - y0]

    def keypoints(self) -> dict:
        """Turned ones, where that is to be done."""
        values = self.entry.get("keypoints")
        if self.turn is None or not values:
            return {}
        if not isinstance(values, list) or len(values) % 3 or not all(map(is_finite, values)):
            raise self.error(f"has the keypoints {short(values)}, expected [x, y, visibility, ...]")
        points = np.array(values, np.float64).reshape(-1, 3)
        labelled = points[:, 2] > 0
        points[labelled, :2] = self.turn.points(points[labelled, :2], pixel_indices=True)
        return {"keypoints": points.ravel().tolist()}

    def segmentation(self, value: object) -> list | dict | None:
        """Polygons of 3 points and more, or RLE of the frame's size, in the file's frame."""
        if value is None or value == [] or value == {}:
            return None
        if isinstance(value, dict):
            return self.checked_rle(value)
        if isinstance(value, list) and all(map(is_finite, value)):
            value = [value]
        if not isinstance(value, list) or not all(
            isinstance(polygon, list) and all(map(is_finite, polygon)) for polygon in value
        ):
            raise self.error(
                f"has the segmentation {short(value)}, expected polygons [[x, y, ...], ...] or RLE; fix it"
            )
        whole = [polygon for polygon in value if len(polygon) >= 6 and len(polygon) % 2 == 0]
        dropped = [self.where] * (len(value) - len(whole))
        self.found.leave_out("polygons of fewer than 3 points, or of an odd count of numbers", dropped)
        return whole or None

    def checked_rle(self, rle: dict) -> dict:
        """pycocotools reads past the end of an RLE that is too short, so its sum is checked here."""
        width, height = self.frame
        if rle.get("size") != [height, width]:
            raise self.error(
                f"has an RLE of the size {short(rle.get('size'))}, but its picture is {times(self.frame)} "
                f"(RLE has [height, width] = [{height}, {width}]); correct it"
            )
        counts = rle.get("counts")
        runs = run_lengths(counts) if isinstance(counts, str) else counts
        whole = isinstance(runs, list) and all(isinstance(run, int) and run >= 0 for run in runs)
        if not isinstance(runs, list) or not whole or sum(runs) != width * height:
            raise self.error(
                f"has RLE counts that do not add up to {width} x {height} pixels; write the mask anew"
            )
        return rle

    def measured(self, segmentation: list | dict) -> dict | None:
        """Upright segmentation in the requested form, with area and box; None where it covers no pixel."""
        form, (width, height) = self.options.masks, self.frame
        if isinstance(segmentation, dict):
            mask = decode_segmentation(segmentation, height, width)
            mask = mask if self.turn is None else self.turn.mask(mask)
            # Crowds are RLE in COCO, and a file's RLE stays one unless polygons are requested.
            return segment_mask(mask, "polygon" if form == "polygon" and not self.crowd else "rle")
        polygons = [np.array(polygon, np.float64).reshape(-1, 2) for polygon in segmentation]
        if any(reaches_far(polygon, height, width) for polygon in polygons):
            raise self.error(f"lies far outside of its picture of {times(self.frame)} pixels; correct it")
        if self.turn is not None:
            polygons = [self.turn.points(polygon) for polygon in polygons]
        return segment_polygons(polygons, self.picture.height, self.picture.width, form)


def run_lengths(counts: str) -> list[int] | None:
    """The runs of COCO's compressed RLE, None where it is cut short.

    Characters hold 5 bits each from the lowest, a sixth says that more follow, the last one's fifth is the
    sign; from the fourth run on they are differences to the last but one (pycocotools, maskApi.c).
    """
    runs: list[int] = []
    value = shift = 0
    for character in counts:
        bits = ord(character) - 48
        if not 0 <= bits < 64:
            return None
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value = shift = 0
    return None if shift else runs
