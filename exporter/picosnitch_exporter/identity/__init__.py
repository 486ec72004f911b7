"""Who moved the bytes: executables by content, processes, and the names of peers."""
