"""Events of objects, zones and lines, and their counts."""
