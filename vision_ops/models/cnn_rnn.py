"""Networks of clips: a network of pictures for every frame, a recurrent layer over the frames.

Long-term recurrent convolutional networks (Donahue et al. 2015, fig. 1), with an LSTM (Hochreiter
and Schmidhuber 1997) or a GRU (Cho et al. 2014); and the mean over the frames to compare with,
which cannot know in which order they came.
"""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

RECURRENT = {"gru": nn.GRU, "lstm": nn.LSTM}
HIDDEN = 256
"""units of the recurrent layer, as many as the paper's for RGB frames"""
ROWS = 32
"""clips that go through recurrent layer and head together in use, filled up with zeros: products of
fewer rows, computed by several threads, gave a row other bits at another place"""


class CnnRnn(nn.Module):
    """A network of pictures without its head, a recurrent layer or a mean, K classes.

    clips   float  (B, T, 3, H, W), each frame normalised as the card says
    logits  float  (B, K), before the softmax

    The head sees the state after the last frame. The paper averages the answers of all frames
    instead, of which the first have seen next to nothing. Batch normalisation of the frames'
    features (Ioffe and Szegedy 2015) is ours as well: frames of a clip are much alike, and what
    they differ in is small beside what they share. Without it the moving-blob test stays at chance
    for hundreds of steps; with it twenty suffice.
    """

    def __init__(self, encoder: nn.Module, size: int, num_classes: int, over_frames: str) -> None:
        super().__init__()
        self.encoder = encoder
        recurrent = over_frames in RECURRENT
        self.norm = nn.BatchNorm1d(size)
        self.recurrent = (
            RECURRENT[over_frames](size, HIDDEN, batch_first=True) if recurrent else None
        )
        self.head = nn.Linear(HIDDEN if recurrent else size, num_classes)

    @property
    def behind_frames(self) -> nn.ModuleList:
        """All but the network of frames."""
        parts = (self.norm, self.recurrent, self.head)
        return nn.ModuleList([part for part in parts if part is not None])

    def logits_and_embeddings(
        self, clips: Float[Tensor, "B T C H W"]
    ) -> tuple[Float[Tensor, "B K"], Float[Tensor, "B E"]]:
        """Logits, and what the last layer sees: the state after the last frame, or the mean."""
        count = len(clips)
        frames = self.encoder(clips.flatten(0, 1))  # (B T, E), or a map of it
        frames = frames.flatten(2).mean(dim=2) if frames.ndim == 4 else frames
        frames = self.norm(frames).unflatten(0, clips.shape[:2])  # (B, T, E)
        if not self.training:
            frames = F.pad(frames, (0, 0, 0, 0, 0, -count % ROWS))
        seen = frames.mean(dim=1) if self.recurrent is None else self.recurrent(frames)[0][:, -1]
        return self.head(seen)[:count], seen[:count]

    def forward(self, clips: Float[Tensor, "B T C H W"]) -> Float[Tensor, "B K"]:
        return self.logits_and_embeddings(clips)[0]
