"""FastAPI and Cassandra as a team writes them first: pydantic models, decorated routes, one statement for each request."""
