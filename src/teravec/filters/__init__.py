"""Filters: which rows does a condition on columns let through?"""
