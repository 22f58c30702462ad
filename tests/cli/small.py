"""Options of a network that is trained in no time."""

TINY = [
    "--preset=small",
    *(f"--set={field}" for field in (
        "modalities=[graph]", "graph_width=16", "graph_layers=2", "embedding_dim=16",
        "n_anchors=8", "n_neighbors=4", "head_width=16", "image_size=32",
    )),
]  # fmt: skip
