"""What a trial looked like: the camera's picture with the answer's mask and box, and a film of the pick."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pick.camera import View, render
from pick.score import UprightBox
from pick.trial import Cell, Outcome, Scene
from pick.world import STEP
from training.data.tabletop.scene import Camera

GREEN, RED, WHITE = (60, 220, 60), (255, 70, 70), (255, 255, 255)
FRAME = (400, 225)  # of the film's two halves
EVERY = 20  # steps of the simulation between two frames


def draw_outcome(outcome: Outcome) -> NDArray[np.uint8]:
    """uint8 (H + caption, W, 3), RGB."""
    record, view = outcome.record, outcome.view
    picture = draw_answer(view, outcome.reply.mask, outcome.box)
    end = "lifted" if record.answer.lifted else f"not lifted: {record.cause}"
    words = f'"{record.instruction}"  ->  {record.label or record.status}, {end}'
    return caption(picture, words, GREEN if record.answer.lifted else RED)


def draw_answer(view: View, mask: NDArray[np.bool_] | None, box: UprightBox | None) -> NDArray[np.uint8]:
    picture = view.rgb.copy()
    thick = max(1, picture.shape[0] // 300)
    if mask is not None:
        outline, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(picture, outline, -1, WHITE, thick + 2)
        cv2.drawContours(picture, outline, -1, RED, thick)
    if box is not None:
        for a, b in box_edges(box):
            ends = [project(view, point) for point in (a, b)]
            cv2.line(picture, ends[0], ends[1], (0, 0, 0), thick + 2, cv2.LINE_AA)
            cv2.line(picture, ends[0], ends[1], GREEN, thick, cv2.LINE_AA)
    return picture


def box_edges(box: UprightBox) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    turn = np.array([[np.cos(box.yaw), -np.sin(box.yaw), 0], [np.sin(box.yaw), np.cos(box.yaw), 0], [0, 0, 1]])
    signs = [np.array([x, y, z]) for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (-0.5, 0.5)]
    pairs = [(a, b) for n, a in enumerate(signs) for b in signs[:n] if np.abs(a - b).sum() == 1]
    return [(box.center + turn @ (a * box.size), box.center + turn @ (b * box.size)) for a, b in pairs]


def project(view: View, point: NDArray[np.float64]) -> tuple[int, int]:
    x, y, z = np.linalg.inv(view.pose)[:3] @ [*point, 1]
    fx, fy, cx, cy = view.camera.k
    return round(x / z * fx + cx), round(y / z * fy + cy)


def caption(picture: NDArray[np.uint8], words: str, color: tuple[int, int, int]) -> NDArray[np.uint8]:
    width = picture.shape[1]
    (long, high), below = cv2.getTextSize(words, cv2.FONT_HERSHEY_SIMPLEX, 1.0, 2)
    size = min(width / 1100, 0.96 * width / long)
    strip = np.full((round((high + below) * width / 1100) + 12, width, 3), 24, np.uint8)
    foot = (len(strip) + round((high - below) * size)) // 2
    cv2.putText(
        strip, words, (width // 60, foot), cv2.FONT_HERSHEY_SIMPLEX, size, color, max(1, round(2 * size)), cv2.LINE_AA
    )
    return np.concatenate([strip, picture])


class Film:
    """Frames of the pick from beside the camera; the answer on the left."""

    def __init__(self, cell: Cell, scene: Scene) -> None:
        self.cell, self.scene = cell, scene
        self.frames: list[NDArray[np.uint8]] = []
        self.steps = 0
        c = scene.camera
        self.beside = Camera((0.0, 0.0, 0.17), 1.1, c.yaw, -22.0, 0.0, 42.0)

    def tick(self) -> None:
        self.steps += 1
        if self.steps % EVERY == 0:
            view = render(self.beside, self.scene.light, *FRAME, self.cell.world.client)
            self.frames.append(view.rgb)

    def write(self, path: Path, outcome: Outcome) -> None:
        """As a GIF: the answer, and beside it the pick, twice as fast as it is."""
        still = cv2.resize(
            draw_answer(outcome.view, outcome.reply.mask, outcome.box), FRAME, interpolation=cv2.INTER_AREA
        )
        said = f'"{outcome.record.instruction}"'
        pictures = [
            Image.fromarray(caption(np.hstack([still, frame]), said, WHITE)).quantize(128, dither=Image.Dither.NONE)
            for frame in self.frames
        ]
        lasts = [round(EVERY * STEP * 1000 / 2)] * len(pictures)
        lasts[0], lasts[-1] = 1200, 1500
        pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=lasts, loop=0, optimize=True)
