"""The HTTP API: thin handlers, each naming the scope that it needs; errors as problem details."""
