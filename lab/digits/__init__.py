"""Tiny real diffusion models of handwritten digits, for workflows, tests and benchmarks.

Everything here starts from scikit-learn's 1,797 handwritten digits. The commands:

    make models    # digits.train
    make card      # digits.evaluate
"""
