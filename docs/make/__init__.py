"""Pages and pictures that are made from the code: `python -m docs.make` writes them.

tests/docs/test_made.py fails where one of them is not what the code gives now.
"""
