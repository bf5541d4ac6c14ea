"""Batch norm over several processes."""

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
    """Far from zero, so that a careless variance would show."""
    return torch.randn(6, 3, 5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(2)) + 100


def step(model, x):
    loss = model(x).pow(3).sum()
    loss.backward()
    return [*(p.grad for p in model.parameters() if p.grad is not None), *model.state_dict().values()]


def share(rank, folder, results):
    """One process: its rows (not as many as the other's) through the synchronized model."""
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
    """What processes with different wishes end up doing, step by step."""
    agreement = SignalSync()
    wishes = [
        StopAction.NOTHING,
        StopAction.SAVE if rank == 1 else StopAction.NOTHING,
        StopAction.STOP if rank == 0 else StopAction.SAVE,
    ]
    granted = [agreement.after_step(wish) for wish in wishes]
    granted.append(agreement.settle())
    asked = agreement.any(rank == 1), agreement.any(False)
    return granted, agreement.settle(), asked, agreement.first(f"rank {rank}" if rank else None)


@pytest.fixture(scope="module")
def shares(tmp_path_factory):
    folder = tmp_path_factory.mktemp("store")
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    workers = [context.Process(target=share, args=(rank, folder, results)) for rank in range(PROCESSES)]
    for worker in workers:
        worker.start()
    try:
        return sorted((results.get(timeout=120) for _ in workers), key=lambda r: r[0])
    finally:
        for worker in workers:
            worker.join(timeout=30)
            worker.kill()


def test_gradients_and_statistics_are_those_of_the_joint_batch(shares):
    expected = step(build(), images())
    for _, _, state, _ in shares:
        assert len(state) == len(expected)
        for found, wanted in zip(state, expected, strict=True):
            torch.testing.assert_close(torch.from_numpy(found), wanted.detach())


def test_only_norms_that_train_are_synchronized(shares):
    kinds = shares[0][1]
    assert kinds == ["Conv2d", "SyncBatchNorm2d", "Conv2d", "SyncBatchNormAct2d", "BatchNorm2d"]


def test_processes_agree_one_step_later_on_the_highest_wish(shares):
    for *_, (granted, settled, asked, message) in shares:
        assert granted == [StopAction.NOTHING, StopAction.NOTHING, StopAction.SAVE, StopAction.STOP]
        assert settled == StopAction.NOTHING
        assert asked == (True, False)
        assert message == "rank 1"


def test_a_process_alone_does_what_it_wishes():
    agreement = SignalSync()
    assert agreement.after_step(StopAction.SAVE) == StopAction.SAVE
    assert agreement.settle() == StopAction.NOTHING
    assert agreement.any(True)
    assert agreement.first("mine") == "mine"


def test_running_alone_the_same_numbers_come_out_in_evaluation():
    model = build()
    synced = convert_sync_batchnorm(build(), on_gpu=False)
    assert torch.equal(model.eval()(images()), synced.eval()(images()))
