"""What an evaluation writes, and what is read of finished ones: tables, plots and pages."""
