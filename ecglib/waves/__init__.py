"""Waves and leads: where P, QRS and T begin and end, and what some leads say of the others."""
