"""How the hub is set up where it runs: on one machine, or on Kubernetes."""
