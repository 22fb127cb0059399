"""What the reasoner in training is told, and the heads that are told it and thrown away.

Image tokens say what stands in their cell, the text is predicted token by token, some attention heads are told where
to look, and image tokens say inside the language model what they know.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.data.tabletop.scene import CATEGORIES, COLORS
from training.embedded.batch import Batch
from training.embedded.reasoner import CELL, GRID, FastLanguage
from training.embedded.tokenizer import FIRST_NUMBER, NUMBERS

TAP = 2  # after this layer of the language model image tokens know where they are

Found = dict[str, Tensor]  # figures for the log

_ROW, _COLUMN = torch.arange(GRID).repeat_interleave(GRID), torch.arange(GRID).repeat(GRID)
_X, _Y = (_COLUMN + 0.5) * CELL, (_ROW + 0.5) * CELL  # middles of the cells, pixels
_SCALE = torch.arange(NUMBERS).float()


class VisionHeads(nn.Module):
    """What a cell shows, asked of the tower's tokens. width: theirs."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.present, self.category = nn.Linear(width, 1), nn.Linear(width, len(CATEGORIES))
        self.color, self.box = nn.Linear(width, len(COLORS)), nn.Linear(width, 4)
        nn.init.zeros_(self.box.weight)
        nn.init.constant_(self.box.bias, 1.2)


class LanguageHeads(nn.Module):
    """The same and where the cell is, asked inside the language model."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.number, self.scale = nn.Linear(width, 6 * width), nn.Parameter(torch.tensor(1.0))
        self.category, self.color = nn.Linear(width, len(CATEGORIES)), nn.Linear(width, len(COLORS))
        self.row = nn.ModuleList([nn.Linear(width, GRID) for _ in range(2)])
        self.column = nn.ModuleList([nn.Linear(width, GRID) for _ in range(2)])


def vision_loss(see: VisionHeads, tokens: Tensor, b: Batch) -> tuple[Tensor, Found]:
    """tokens: (B, GRID², C)."""
    h = F.rms_norm(tokens.float(), tokens.shape[-1:])
    present, care = see.present(h)[..., 0], b.owner >= 0
    loss = 2 * F.binary_cross_entropy_with_logits(present[care], (b.owner[care] > 0).float())
    image, cell = torch.nonzero(b.owner > 0, as_tuple=True)
    who = b.owner[image, cell] - 1
    f, box = h[image, cell], b.box[image, who]
    category, color = see.category(f), see.color(f)
    loss = loss + F.cross_entropy(category, b.category[image, who]) + F.cross_entropy(color, b.color[image, who])
    d = see.box(f) * CELL
    x, y = _X[cell], _Y[cell]
    guess = torch.stack([x - d[:, 0], y - d[:, 1], x + d[:, 2], y + d[:, 3]], 1)
    iou, giou = _generalised_iou(guess, box)
    loss = loss + 2 * F.smooth_l1_loss(guess / CELL, box / CELL, beta=0.25) + (1 - giou).mean()
    return loss, {
        "cell_category": (category.argmax(1) == b.category[image, who]).float().mean(),
        "cell_color": (color.argmax(1) == b.color[image, who]).float().mean(),
        "cell_iou": iou.mean(),
    }


def _generalised_iou(p: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """IoU and generalised IoU of boxes (N, 4), pair by pair."""
    inner = (torch.min(p[:, 2:], t[:, 2:]) - torch.max(p[:, :2], t[:, :2])).clamp(min=0).prod(1)
    union = (p[:, 2:] - p[:, :2]).clamp(min=0).prod(1) + (t[:, 2:] - t[:, :2]).prod(1) - inner + 1e-6
    hull = (torch.max(p[:, 2:], t[:, 2:]) - torch.min(p[:, :2], t[:, :2])).prod(1).clamp(min=1e-6)
    return inner / union, inner / union - (hull - union) / hull


def text_loss(text: Tensor, embedding: Tensor, b: Batch) -> tuple[Tensor, Found]:
    """The next token; a number that is missed by little costs little. text: (B, T, C) last hidden states."""
    learn = b.label >= 0
    target, weight = b.label[learn], b.weight[learn]
    logits = text[learn].float() @ embedding.t()
    logp = F.log_softmax(logits, -1)
    number = (target >= FIRST_NUMBER) & (target < FIRST_NUMBER + NUMBERS)
    value = target[number] - FIRST_NUMBER
    numbers = logp[number][:, FIRST_NUMBER : FIRST_NUMBER + NUMBERS]
    number_loss = -(numbers * _soft(value)).sum(1).mean()
    word_loss = -logp[~number].gather(1, target[~number][:, None])[:, 0]
    loss = 2 * (word_loss * weight[~number]).sum() / weight[~number].sum() + number_loss
    found = {}
    right = logits.argmax(1) == target
    for name, chosen in (("word_acc", weight == 4.0), ("decide_acc", weight == 8.0)):
        found[name] = right[chosen].float().mean()
    found["number_mae"] = (numbers.argmax(1) - value).abs().float().mean()
    return loss, found


def _soft(target: Tensor, sigma: float = 1.5) -> Tensor:
    """Every number's share of what is told, (N, NUMBERS) for N true ones."""
    weight = torch.exp(-((_SCALE[None] - target[:, None].float()) ** 2) / (2 * sigma**2))
    return weight / weight.sum(1, keepdim=True)


def look_loss(scores: Mapping[int, Tensor], language: FastLanguage, b: Batch) -> tuple[Tensor, Found]:
    """Where to look while writing about an object: at its cells; about nothing: at the end of the image.

    Most of all where it is decided, since an object hardly looked at there is denied.
    scores: by layer (B, heads, T, image tokens + T), before the softmax.
    """
    told = b.about >= 0
    image, place = torch.nonzero(told, as_tuple=True)
    keys = language.image_tokens
    wanted = torch.zeros(len(image), keys, dtype=torch.bool)
    who = b.about[image, place]
    wanted[:, language.before : keys - 1] = (b.owner[image] == who[:, None]) & (who[:, None] > 0)
    wanted[:, keys - 1] = who == 0
    importance = torch.where(b.weight[image, place] == 8.0, 40.0, 1.0) * wanted.any(1)
    loss = torch.zeros(())
    found = {}
    for layer, every in scores.items():
        raw = every[image, :, place].float()  # (N, heads, keys + T)
        total = torch.logsumexp(raw, -1)
        mass = torch.logsumexp(raw[:, :, :keys].masked_fill(~wanted[:, None], -1e4), -1) - total
        loss = loss - (mass.mean(1) * importance).sum() / importance.sum() / len(scores)
        found[f"look_{layer}"] = (mass.exp().mean(1) * importance).sum() / importance.sum()
    return loss, found


def knowledge_losses(
    know: LanguageHeads, hidden: Mapping[int, Tensor], embedding: Tensor, b: Batch
) -> tuple[list[Tensor], Found]:
    """What image tokens know inside the language model: where they are, what they show, in absolute numbers.

    hidden: by layer (B, GRID², C). The losses are to be added up, weighted already.
    """
    found = {}
    width = embedding.shape[1]
    image, cell = torch.nonzero(b.owner > 0, as_tuple=True)
    who = b.owner[image, cell] - 1
    f = F.rms_norm(hidden[TAP].float(), (width,))[image, cell]
    numbers = torch.cat([b.box[image, who], b.point[image, who]], 1).long()
    table = embedding[FIRST_NUMBER : FIRST_NUMBER + NUMBERS]
    logp = F.log_softmax((know.number(f).view(-1, 6, width) @ table.t()) * know.scale, -1)
    losses = [-0.7 * (logp.reshape(-1, NUMBERS) * _soft(numbers.reshape(-1))).sum(1).mean()]
    kinds = F.cross_entropy(know.category(f), b.category[image, who]) + F.cross_entropy(
        know.color(f), b.color[image, who]
    )
    losses.append(0.2 * kinds)
    found["token_mae"] = (logp.argmax(-1) - numbers).abs().float().mean()
    for layer in range(2):
        h = F.rms_norm(hidden[layer].float(), (width,))
        rows, columns = know.row[layer](h), know.column[layer](h)
        losses.append(0.25 * F.cross_entropy(rows.transpose(1, 2), _ROW.expand(len(h), -1)))
        losses.append(0.25 * F.cross_entropy(columns.transpose(1, 2), _COLUMN.expand(len(h), -1)))
        found[f"column_{layer}"] = (columns.argmax(-1) == _COLUMN).float().mean()
    return losses, found
