"""What comes out: tables, statistics, plots."""
