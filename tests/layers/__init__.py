"""Tests of deepchem_mmsa.layers."""
