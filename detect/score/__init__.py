"""A folder of slides in, a run folder out: plan, engine, store, differential, report."""
