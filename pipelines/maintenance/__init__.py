"""Jobs on a memory that is there: compact, vacuum, repair, roll back, compare, export, list its history."""
