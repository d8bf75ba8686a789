"""The contract as tests, for methods of this project and of others; see plugin.py."""
