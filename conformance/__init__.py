"""Tests of the method contract, for methods of this project and of other packages; see plugin.py."""
