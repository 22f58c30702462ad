"""Build script; all metadata stand in setup.cfg."""

from setuptools import setup

setup()
