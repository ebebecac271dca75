"""``fxhead cam``: where in an image each class gets its score, drawn over the image."""
