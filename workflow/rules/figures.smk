# Artifacts -> the tables and figures that people look at.
FIGURES = []
