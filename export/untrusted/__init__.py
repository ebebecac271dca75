"""Files that anybody may have written: looked at, never believed, and nothing in them run."""
