"""Pictures of label maps and of evidence."""
