"""Many runs on shared storage as one table: read -> table -> compare -> page.

runs = read_runs(Path("runs"))
table = make_table(runs)
"""
