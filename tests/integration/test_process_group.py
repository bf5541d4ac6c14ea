"""Synchronized batch norm, balanced classes, and agreement on signals, in a group of two processes."""

import multiprocessing

import pytest
import torch
import torch.distributed as dist
from timm.layers import BatchNormAct2d
from torch import nn

from libradet.models.class_balance import build_class_balance
from libradet.models.config import ClassBalanceConfig
from libradet.models.losses import class_loss, num_samples_across_ranks
from libradet.models.ops.sync_batchnorm import convert_sync_batchnorm
from libradet.training.signals import SignalSync, StopAction

PROCESSES = 2
CLASS_BALANCES = ("inverse_frequency", "effective_number", "seesaw", "eql_v2")


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


def balanced_step(kind, rank=None):
    """Two steps of a loss on six, then five images; of process ``rank`` two of them, of the other the rest.

    Returns the losses, the gradients at the logits, and the buffers.
    """
    balance = build_class_balance(ClassBalanceConfig(kind, frequencies=(90, 9, 1)), 3).train()
    generator, outcome = torch.Generator().manual_seed(5), []
    for num_images in (6, 5):
        logits = torch.randn(num_images, 8, 4, generator=generator)
        labels = torch.tensor([0, 0, 1, 2, 3, 3])[torch.randint(6, (num_images, 8), generator=generator)]
        valid = torch.rand(num_images, 8, generator=generator) < 0.7
        rows = slice(None) if rank is None else slice(2) if rank == 0 else slice(2, None)
        logits = logits[rows].requires_grad_()
        count = num_samples_across_ranks(valid[rows])
        loss = class_loss(logits, labels[rows], valid[rows], count, class_balance=balance)
        outcome += [loss.detach(), *torch.autograd.grad(loss, logits)]
    return [*outcome, *balance.buffers()]


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
    balanced = {kind: [t.numpy() for t in balanced_step(kind, rank)] for kind in CLASS_BALANCES}
    results.put((rank, kinds, [t.detach().numpy() for t in state], balanced, agree(rank)))
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
    for _, _, state, *_ in outcomes:
        assert len(state) == len(expected)
        for actual, wanted in zip(state, expected, strict=True):
            torch.testing.assert_close(torch.from_numpy(actual), wanted.detach())


def test_only_norms_that_train_are_synchronized(outcomes):
    kinds = outcomes[0][1]
    assert kinds == ["Conv2d", "SyncBatchNorm2d", "Conv2d", "SyncBatchNormAct2d", "BatchNorm2d"]


@pytest.mark.parametrize("kind", CLASS_BALANCES)
def test_balanced_classes_are_those_of_the_joint_batch(outcomes, kind):
    """Losses and gradients of the processes average to those of the joint batch, and both count all samples."""
    joint = balanced_step(kind)
    first, second = ([torch.from_numpy(t) for t in balanced[kind]] for *_, balanced, _ in outcomes)
    for step in range(2):
        loss, gradient = (2 * step, 2 * step + 1)
        torch.testing.assert_close((first[loss] + second[loss]) / PROCESSES, joint[loss])
        torch.testing.assert_close(torch.cat([first[gradient], second[gradient]]) / PROCESSES, joint[gradient])
    for buffers in (first[4:], second[4:]):
        torch.testing.assert_close(buffers, joint[4:])
    assert len(joint) > 4, "weights, counts or sums of gradients"


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
