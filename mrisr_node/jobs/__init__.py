"""The work itself: which stages a series passes, in which queue, and what happens when one dies."""
