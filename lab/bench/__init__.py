"""What guidance costs and what it brings, measured where it runs. The commands:

make bench           # all of the below
make bench-speed     # bench.speed: time and memory
make bench-negative  # bench.negative: negative prompts, and one share for all bad versions
make bench-quality   # bench.quality: how good images become; writes docs/results.md

Nothing here is part of the tests but `test_*.py`, which look at the measuring, not at the figures.
"""
