"""What guidance costs in time and memory, measured where it runs. The commands:

make bench          # all of the below
make bench-speed    # bench.speed

Nothing here is part of the tests but `test_*.py`, which look at the measuring, not at the figures.
"""
