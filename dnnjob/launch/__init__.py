"""Starting runs: in this process, in others on this machine, on a cluster."""
