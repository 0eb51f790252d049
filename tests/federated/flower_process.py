"""A server or a client as a process of its own: ``python flower_process.py server|0|1|… PORT OUT``."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch
from federated_toys import CONFIG, TRAINING, net, splits
from safetensors.torch import save_file

from moezoo.federated import Client, share_of, split_parameters
from moezoo.federated.flower import join, serve

role, port, out = sys.argv[1], sys.argv[2], Path(sys.argv[3])
address = f"127.0.0.1:{port}"
torch.set_num_threads(1)
model = net()
split = split_parameters(model)
if role == "server":
    from flwr.supercore.telemetry import FLWR_TELEMETRY_ENABLED

    found = serve(model, split, address=address, clients=CONFIG.clients, rounds=CONFIG.rounds, timeout=300)
    save_file(found.state, out / "global.safetensors")
    told = {"rounds": list(found.rounds), "telemetry": FLWR_TELEMETRY_ENABLED}
    (out / "server.json").write_text(json.dumps(told))
else:
    client, counts = share_of(int(role), model, splits(), CONFIG, TRAINING, split)
    train = Client.train

    def trained(self, message, step=lambda: None):
        if f"{role}:{message.round}" == os.environ.get("DIES_IN"):
            os._exit(9)
        if f"{role}:{message.round}" == os.environ.get("FAILS_IN"):
            raise RuntimeError("out of memory")
        return train(self, message, step)

    Client.train = trained
    whole = join(client, counts, address=address, timeout=300)
    assert all(torch.equal(t, split.local_state(whole)[name]) for name, t in client.local.items())
    save_file(client.local, out / f"local{role}.safetensors")
    save_file(split.global_state(whole), out / f"global{role}.safetensors")
