"""Augmentations: pure JAX, key first, images [N, H, W, C], inside the step.

`geometry` crops, flips and erases; `color` makes gray images and normalises;
`exchange` swaps rectangles between the modalities.
"""
