"""The hub's side of Meridian: spawner, sign-in, batch runs, pages. Nothing starts without a lease."""
