"""The bodies of requests: where their bytes lie while a call lasts, and what is cut out of them."""
