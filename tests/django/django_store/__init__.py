"""The application of these tests: a store on the tables of tests/world.py."""
