"""Stage programs that read, generate, judge, build and measure."""
