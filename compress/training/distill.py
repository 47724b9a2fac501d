"""Knowledge distillation (Hinton, Vinyals & Dean 2015, "Distilling the Knowledge in a Neural Network", section 2)."""

from __future__ import annotations

import torch
import torch.nn.functional as F

__all__ = ["distillation_loss"]


def distillation_loss(
    logits: torch.Tensor,
    teacher_logits: torch.Tensor,
    labels: torch.Tensor,
    *,
    temperature: float,
    alpha: float,
    label_smoothing: float = 0.0,
) -> torch.Tensor:
    """`alpha T^2 KL(softmax(teacher / T) || softmax(student / T)) + (1 - alpha) cross_entropy(student, labels)`.

    T^2 keeps the size of the soft gradient independent of T, so that alpha means the same at every temperature.

    Args:
        logits: of the student, `[N, classes]`.
        teacher_logits: `[N, classes]`, without gradient.
        labels: int64 `[N]`.

    Returns:
        The mean over the batch, a scalar in float32.
    """
    student = F.log_softmax(logits.float() / temperature, dim=1)
    teacher = F.log_softmax(teacher_logits.float() / temperature, dim=1)
    soft = F.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2
    hard = F.cross_entropy(logits.float(), labels, label_smoothing=label_smoothing)
    return alpha * soft + (1 - alpha) * hard
