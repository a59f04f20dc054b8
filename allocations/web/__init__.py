"""The pages that people see: made on the server, for browsers with and without JavaScript."""
