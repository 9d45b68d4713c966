"""What a fresh decoder learns from features of one source."""
