"""The mini scale in a budget of minutes: both studies stage by stage, and what is done carried from call to call."""
