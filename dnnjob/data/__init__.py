"""Tables: where they come from, what their columns hold, how rows are split, scaled and ordered.

table = open_table(job, make_scratch=make_scratch, threads=2, crew=crew, kept=None)
encoding = table.fit_encoding(job.data)
for piece in table.pieces(size=65_536): ...
"""
