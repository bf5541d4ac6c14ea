"""Synchronized batch norm, and agreement on signals, in a group of two processes."""

import multiprocessing

import pytest
import torch
import torch.distributed as dist
from timm.layers import BatchNormAct2d
from torch import nn

from libradet.models.ops.sync_batchnorm import convert_sync_batchnorm
from libradet.training.signals import SignalSync, StopAction

PROCESSES = 2


def build():
    torch.manual_seed(1)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1), BatchNormAct2d(4)).train()
    frozen = nn.BatchNorm2d(4).eval()
    return model.append(frozen).double()


def images():
    """Return images far from zero, for which an imprecise variance would be wrong."""
    return torch.randn(6, 3, 5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(2)) + 100


def step(model, x):
    loss = model(x).pow(3).sum()
    loss.backward()
    return [*(p.grad for p in model.parameters() if p.grad is not None), *model.state_dict().values()]


def run_process(rank, folder, results):
    """Run one process: its rows (two or four) through the synchronized model."""
    torch.set_num_threads(1)
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=PROCESSES)
    model = convert_sync_batchnorm(build(), on_gpu=False)
    kinds = [type(m).__name__ for m in model]
    x = images()
    state = step(model, x[:2] if rank == 0 else x[2:])
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    for gradient in gradients:
        dist.all_reduce(gradient)
    results.put((rank, kinds, [t.detach().numpy() for t in state], agree(rank)))
    dist.barrier()


def agree(rank):
    """Return the agreed actions of processes that request different ones, step by step."""
    agreement = SignalSync()
    requests = [
        StopAction.NOTHING,
        StopAction.SAVE if rank == 1 else StopAction.NOTHING,
        StopAction.STOP if rank == 0 else StopAction.SAVE,
    ]
    agreed = [agreement.after_step(request) for request in requests]
    agreed.append(agreement.wait())
    votes = agreement.any(rank == 1), agreement.any(False)
    return agreed, agreement.wait(), votes, agreement.first_message(f"rank {rank}" if rank else None)


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("store")
    # A forked copy of a process that has run autograd cannot run it itself.
    context = multiprocessing.get_context("forkserver")
    results = context.Queue()
    workers = [context.Process(target=run_process, args=(rank, folder, results)) for rank in range(PROCESSES)]
    for worker in workers:
        worker.start()
    try:
        return sorted((results.get(timeout=120) for _ in workers), key=lambda r: r[0])
    finally:
        for worker in workers:
            worker.join(timeout=30)
            worker.kill()


def test_gradients_and_statistics_are_those_of_the_joint_batch(outcomes):
    expected = step(build(), images())
    for _, _, state, _ in outcomes:
        assert len(state) == len(expected)
        for actual, wanted in zip(state, expected, strict=True):
            torch.testing.assert_close(torch.from_numpy(actual), wanted.detach())


def test_only_norms_that_train_are_synchronized(outcomes):
    kinds = outcomes[0][1]
    assert kinds == ["Conv2d", "SyncBatchNorm2d", "Conv2d", "SyncBatchNormAct2d", "BatchNorm2d"]


def test_processes_agree_one_step_later_on_the_highest_request(outcomes):
    for *_, (agreed, settled, votes, message) in outcomes:
        assert agreed == [StopAction.NOTHING, StopAction.NOTHING, StopAction.SAVE, StopAction.STOP]
        assert settled == StopAction.NOTHING
        assert votes == (True, False)
        assert message == "rank 1"


def test_a_single_process_needs_no_agreement():
    agreement = SignalSync()
    assert agreement.after_step(StopAction.SAVE) == StopAction.SAVE
    assert agreement.wait() == StopAction.NOTHING
    assert agreement.any(True)
    assert agreement.first_message("mine") == "mine"


def test_evaluation_mode_is_not_changed():
    model = build()
    synced = convert_sync_batchnorm(build(), on_gpu=False)
    assert torch.equal(model.eval()(images()), synced.eval()(images()))
