"""What comes out of a run, for people: tables and pages."""
