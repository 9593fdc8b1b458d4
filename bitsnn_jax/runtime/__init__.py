"""The machine: files, locks, signals, devices, hosts, the command line."""
