"""What a run leaves: metrics, baselines, the report, its tables, plots and page.

Its modules are imported one by one, since `plots` brings matplotlib and seaborn:

    from dnnjob.results.metrics import add_up
    from dnnjob.results.report import Report, write_report
"""
