"""What each deployment backend wants, as data."""
