"""The HTTP API and its application: thin handlers, each naming the scope that it needs."""
