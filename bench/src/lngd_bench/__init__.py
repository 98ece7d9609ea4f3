"""Races optimizers on real tasks: training writes records, reports only read them."""
