"""Models of many libraries, tiny and with random weights: ``python -m benchmarks.conformance wild``.

Each is cut at three places without an example, and compared with a hook on the untouched model. What the libraries
need is the extra `wild`.
"""
