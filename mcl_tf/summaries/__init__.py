"""What TensorBoard shows of a run.

| folder | contents |
|---|---|
| train | losses, similarities and speed by optimizer step; augmented views; the graph of the network; the profile |
| evaluation | metrics, score histograms and precision-recall curves of every evaluation within the training |
| result | the same of the whole test split at the end; the embeddings for the projector; the options (HParams) |

Nothing here changes a result, and a disk that takes no more events does not end a run.
"""
