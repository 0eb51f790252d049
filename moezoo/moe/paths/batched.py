from moezoo.moe.paths.sorted import run
