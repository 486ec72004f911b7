import os

from hypothesis import HealthCheck, settings

# The machines are shared: how long an example takes says nothing about the code. What CI runs is
# the same each time; a developer's runs go on looking.
settings.register_profile("default", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("default"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "default")
