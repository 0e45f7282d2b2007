"""How fast, beside whom: verify, compile, then time. `minidetect bench` is the short form, benchmarks/ the long.

    timing.py    one contest: ours and the peers on the same arrays, in turn, in one process
    machine.py   what the processor can do at most: arithmetic and memory
    peers.py     PyTorch, ONNX Runtime and OpenCV, where they are installed
    conv.py      cases: convolution, dense and depthwise, over the shapes that the models use
    layers.py    cases: PReLU, batch norm, pooling, RoI pooling, softmax
    boxes.py     cases: NMS, IoU, resizing
    suite.py     all cases, and a run over them
    report.py    families, bars, tables and the roofline plot

and the same on a GPU, benchmarks/gpu_kernels.py: cuda_suite.py and what it names.
"""
