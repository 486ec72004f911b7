"""The plan for kernels without BTF: programs that BCC compiles on the machine they run on.

`worker` is a process of its own, which compiles, loads and attaches, and hands the descriptors
over; so the compiler is gone from the sensor's memory before it counts.
"""
