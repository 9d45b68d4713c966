"""The paper's four measures by name and title. Apart from ``metrics``, which imports torchmetrics."""

MEASURES = ("pixel_acc", "class_acc", "miou", "fw_iou")
TITLES = {"pixel_acc": "PixelAcc", "class_acc": "ClassAcc", "miou": "mIoU", "fw_iou": "fwIoU"}
