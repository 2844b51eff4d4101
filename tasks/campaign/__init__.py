"""Plan the cases of a campaign, schedule the phases of a case, and record case after case."""
