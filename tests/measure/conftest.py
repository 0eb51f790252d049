from torch_threads import seeded_on_one_thread  # noqa: F401
