"""Training loops on accelerate: the generator's and the segmentation model's."""
