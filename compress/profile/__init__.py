"""Profile of where an inference call spends its time, layer by layer, and of what each layer waits for.

readers/<format>.py   one per runtime: how long every layer takes -> Recording
machine.py            what this machine can do at most: copy, matrix product, cost of starting a layer -> Roofline
bottleneck.py         which of the machine's limits a layer meets, and what to do about it
analyze.py            Recording + Roofline -> Profile
document.py           Profile, as it is stored in `profile.json`
trace.py, diff.py     Profile -> Perfetto; two profiles side by side; tables are `compress.report.profile_tables`
"""
