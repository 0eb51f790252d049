"""Which words look where, or where is looked at which words."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from moezoo.errors import InputError
from moezoo.viz.grid import write_title
from moezoo.viz.heat import heat_bar, show_heat
from moezoo.viz.style import MUTED, Picture, new_figure, show_image, to_arrays

MOST = 10
"""Words of a sentence beyond these are not drawn."""


def word_maps(weights: Tensor, words: Sequence[Sequence[int]], grid: tuple[int, int], prefix_tokens: int = 0) -> Tensor:
    """(words, rows, columns) of one image: how much each word and each patch look at each other, mean over heads.

    Args:
        weights: (heads, image tokens, text tokens) where the image looks at the text, as in a fusion; for text that
            looks at the image, as in a decoder, its transpose.
        words: The places of every word's tokens; they are summed.
        grid: Rows and columns of the image tokens that lie on the image.
        prefix_tokens: Image tokens before them.

    Raises:
        InputError: There are not that many image tokens.
    """
    rows, columns = grid
    if weights.dim() != 3 or weights.shape[1] != prefix_tokens + rows * columns:
        raise InputError(
            f"weights must be (heads, {prefix_tokens + rows * columns}, text tokens) for {prefix_tokens} tokens before "
            f"a grid of {rows} x {columns}, got {tuple(weights.shape)}"
        )
    on_grid = weights.detach().float().cpu().mean(0)[prefix_tokens:]
    maps = on_grid.new_zeros(len(words), rows, columns)
    for word, places in enumerate(words):
        maps[word] = on_grid[:, list(places)].sum(-1).view(rows, columns)
    return maps


def image_text_figure(
    images: Tensor,
    words: Sequence[Sequence[str]],
    maps: Sequence[Tensor],
    *,
    title: str = "Attention between words and image",
) -> Picture:
    """One row per image: the image, then once per word of its sentence, lighter where word and patch attend more.

    Args:
        images: (B, C, H, W) pixels in [0, 1], C 1 or 3.
        words: B times the words.
        maps: B times (words, rows, columns), of :func:`word_maps`.
        title: Above the picture.

    Returns:
        With ``data["words"]`` and ``data["maps"]``, as given.

    Raises:
        InputError: No image has words, or the numbers of images, words and maps differ.
    """
    if not any(words) or len(words) != len(images) or [len(w) for w in words] != [len(m) for m in maps]:
        raise InputError(
            f"image_text_figure needs as many sentences as images ({len(images)}) and as many maps as words "
            f"({[len(w) for w in words]}), got maps {[len(m) for m in maps]}"
        )
    pixels = to_arrays(images)
    arrays = [each.detach().float().cpu().numpy() for each in maps]
    columns = min(max(map(len, words)), MOST)
    figure = new_figure(1.2 * (1 + columns) + 0.3, 1.38 * len(images) + 1.0, pad=0.03)
    axes = figure.subplots(len(images), 1 + columns, squeeze=False)
    for row, image in enumerate(pixels):
        show_image(axes[row, 0], image)
        # Each image on its own scale: longer sentences have less attention for each word.
        highest = float(arrays[row].max()) if arrays[row].size else 1.0
        for column, ax in enumerate(axes[row, 1:]):
            if column >= len(words[row]):
                ax.set_visible(False)
                continue
            show_heat(ax, image, arrays[row][column], highest)
            more = len(words[row]) - MOST if column == MOST - 1 else 0
            write_title(ax, words[row][column] + (f"  (+{more})" if more > 0 else ""))
    figure.suptitle(title, fontsize=9.5, color=MUTED)
    heat_bar(figure, "over the highest of the row", 1.0)
    figure.data = {"words": [list(each) for each in words], "maps": arrays}
    return figure
