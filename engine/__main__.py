"""The commands, in a list:

    python -m engine.train       train a net; --resume goes on with a run
    python -m engine.evaluate    accuracy of a run, confusion table, class by class
    python -m engine.predict     the likeliest classes of pictures
    python -m engine.plot        learning curves, confusion table, worst images, as a page
    python -m engine.export      a run's net as an ONNX file
    python -m engine.data.prepare  a folder of images as files to be mapped
    python -m lsuv               what an initialiser does to a net, layer by layer
    python -m bench.step         a training step, beside PyTorch's
    python -m bench.shards       a step in shards, by one process or several
    python -m bench.kernels      every operation by itself
    python -m bench.init         orthonormal matrices, and LSUV whole
    python -m bench.gpu          all of it on a GPU
    python -m bench.paper        the paper's tables and figures, ours beside theirs
    python -m bench.weights      a finished run as weights that come with the program
    python -m bench.runs         figures of finished runs, for the report
    python -m bench.report       writes the pages of measurements

Each has --help. From Python: `import engine`, and help(engine).

Read next: engine/train.py.
"""

print(__doc__.split("\n\nRead next")[0])
