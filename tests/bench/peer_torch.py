"""PyTorch: an eager loop over resident tensors, fused SGD, rows gathered by their index.

python peer_torch.py --table table.npz --batch 64 --epochs 500
"""

import torch
from task import Stopwatch, Task, load_task, parse_arguments, print_result
from torch import Tensor, nn


def build_network(task: Task) -> nn.Sequential:
    """The network with the task's first weights."""
    layers: list[nn.Module] = []
    for kernel, bias in task.weights:
        linear = nn.Linear(*kernel.shape)
        with torch.no_grad():
            linear.weight.copy_(torch.from_numpy(kernel).T)
            linear.bias.copy_(torch.from_numpy(bias))
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def train(task: Task, *, compiled: bool) -> tuple[float, float, float]:
    """Trains; seconds of compiling and of steps, and the last epoch's loss."""
    x, y = torch.from_numpy(task.x), torch.from_numpy(task.y)
    network = build_network(task)
    loss_of = torch.compile(loss) if compiled else loss
    optimizer = torch.optim.SGD(network.parameters(), lr=task.learning_rate, fused=True)
    order = torch.from_numpy(task.order).long()
    watch = Stopwatch()
    if compiled:  # one run forward and backward for each of the two batch shapes
        for rows in {task.batch, task.order.shape[1] % task.batch} - {0}:
            loss_of(network, x[:rows], y[:rows]).backward()
        optimizer.zero_grad(set_to_none=True)
    compile_s = watch.lap()
    for epoch in order:
        total = torch.zeros(())
        for rows in epoch.split(task.batch):
            error = loss_of(network, x[rows], y[rows])
            error.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            total += error.detach() * len(rows)
    final_loss = float(total) / order.shape[1]
    return compile_s, watch.lap(), final_loss


def loss(network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Mean squared error of a batch."""
    return nn.functional.mse_loss(network(x), y)


def main() -> None:
    """Runs the peer."""
    arguments = parse_arguments("PyTorch", "compile")
    task = load_task(arguments)
    torch.set_num_threads(task.threads)
    compile_s, train_s, final_loss = train(task, compiled=arguments.compile)
    print_result(
        task,
        library=f"torch {torch.__version__}",
        compile_s=compile_s,
        train_s=train_s,
        final_loss=final_loss,
    )


if __name__ == "__main__":
    main()
