"""One recording and its signal; many recordings as a cohort."""
