"""Tells people: reminders by the calendar, one mail a day with what is new, and the list on their page."""
