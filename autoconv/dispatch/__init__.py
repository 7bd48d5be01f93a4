"""The hit path: a call's signature to a plan, a plan to a launch; and what happens on a miss."""
