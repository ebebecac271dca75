"""``fxhead study``: does a Linear head learn otherwise than the same head as a 1×1 convolution?"""
