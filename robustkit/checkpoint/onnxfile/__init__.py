"""ONNX files: a graph that is data, made a network by operations that are known.

`opening` reads a file, `contents` says what is in it, both without torch. `folding` computes what
depends on no image, and finds what depends on how many there are; `conversion` makes steps of the
rest, by `operations` or onnx2torch's converters (`library`); `network` takes them; `agreement`
holds it against onnxruntime.
"""
