"""The privileged process: loads the BPF program, drains it, watches execs."""
