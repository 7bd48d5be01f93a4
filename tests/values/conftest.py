from __future__ import annotations

from hypothesis import settings

# A busy machine makes single examples slow at random; how long they take is not what these tests are about.
settings.register_profile("no-deadline", deadline=None)
settings.load_profile("no-deadline")
