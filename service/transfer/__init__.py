"""Files in and out through the API: the client's side, which knows HTTP and files and nothing else of the service."""
