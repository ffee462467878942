"""What `moontune doctor` asks of the machine that computes: packages, GPU, driver, model, memory.

Needs neither the service's packages nor, until the model is looked at, any of its own: what is
missing is what it is to find. Facts are gathered in one place; each check is a function of them.
"""
