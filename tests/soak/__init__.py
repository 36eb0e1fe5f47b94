"""Long runs of what script/test tries a dozen times."""
