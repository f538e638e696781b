"""What several subjects share, and nothing of any one of them: a subject hands it its cases, rows and steps.

`floor` counts what the operators cannot do without, `step` has the adaptation step as the paper writes it and as the
engine runs it, `methods` what others do without and with source data.
"""
