"""People rank responses on a page (section 3.4): tasks, leases, answers, agreement, import and export."""
